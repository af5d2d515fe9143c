//! Reverse-mode differentiation through frozen networks.
//!
//! A [`Tracked`] value knows how a gradient flows back to what it was computed from. Only layers make such values, each with an
//! input gradient of its own and with exactly what that gradient needs: a frozen convolution keeps nothing, a normalisation its
//! input. There is no other way from one tracked value to the next, so that a gradient cannot be cut without a word; and no weight
//! ever gets one.

mod arithmetic;

use candle_core::{Result, Tensor, TensorId, bail};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A tensor, and where it came from if a gradient is wanted there. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Tracked {
    value: Tensor,
    /// `None`: a constant.
    origin: Option<Arc<Origin>>,
}

/// How a value was computed.
struct Origin {
    /// Larger than those of all parents.
    order: u64,
    parents: Vec<Option<Arc<Origin>>>,
    /// From the gradient of the value to those of the parents; `None` for an input.
    pull_back: Option<PullBack>,
    /// What the gradient keeps alive: tensors and their bytes.
    kept: Vec<(TensorId, usize)>,
}

type PullBack = Box<dyn Fn(&Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync>;

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("order", &self.order).finish_non_exhaustive()
    }
}

impl Origin {
    fn new(parents: Vec<Option<Arc<Origin>>>, pull_back: Option<PullBack>, kept: &[Tensor]) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let kept = kept.iter().map(|t| (t.id(), t.elem_count() * t.dtype().size_in_bytes())).collect();
        Arc::new(Self { order: NEXT.fetch_add(1, Ordering::Relaxed), parents, pull_back, kept })
    }
}

impl From<Tensor> for Tracked {
    fn from(value: Tensor) -> Self {
        Self::constant(value)
    }
}

impl From<&Tensor> for Tracked {
    fn from(value: &Tensor) -> Self {
        Self::constant(value.clone())
    }
}

impl Tracked {
    /// A value that no gradient flows to.
    pub fn constant(value: Tensor) -> Self {
        Self { value, origin: None }
    }

    /// A value whose gradient [`gradients`] can give.
    pub fn input(value: Tensor) -> Self {
        Self { value, origin: Some(Origin::new(Vec::new(), None, &[])) }
    }

    pub fn value(&self) -> &Tensor {
        &self.value
    }

    pub fn into_value(self) -> Tensor {
        self.value
    }

    /// Whether a gradient can flow back from here.
    pub fn is_tracked(&self) -> bool {
        self.origin.is_some()
    }

    /// `value`, computed from `parents`. `pull_back` gives the parents' gradients, given what was `kept` for it and the gradient of
    /// `value`; `None` stands for zero. Where no parent is tracked, the result is a constant and nothing is kept.
    pub(crate) fn record<const P: usize, const K: usize>(
        value: Tensor,
        parents: [&Self; P],
        kept: [&Tensor; K],
        pull_back: impl Fn([&Tensor; K], &Tensor) -> Result<[Option<Tensor>; P]> + Send + Sync + 'static,
    ) -> Self {
        if !parents.iter().any(|parent| parent.is_tracked()) {
            return Self::constant(value);
        }
        let parents = parents.map(|parent| parent.origin.clone()).into();
        let kept = kept.map(Tensor::clone);
        let bytes = kept.clone();
        let pull_back: PullBack = Box::new(move |grad| Ok(pull_back(kept.each_ref(), grad)?.into()));
        Self { value, origin: Some(Origin::new(parents, Some(pull_back), &bytes)) }
    }

    /// `block(inputs)`, of which the gradient keeps only the inputs: it runs the block again.
    ///
    /// # Errors
    /// The block's.
    pub fn recomputed<const P: usize>(
        inputs: [&Self; P],
        block: impl Fn([&Self; P]) -> Result<Self> + Send + Sync + 'static,
    ) -> Result<Self> {
        let tracked = inputs.map(Self::is_tracked);
        let constants = inputs.map(|input| Self::constant(input.value.clone()));
        let value = block(constants.each_ref())?.value;
        Ok(Self::record(value, inputs, inputs.map(Self::value), move |values, grad| {
            let mut leaves = values.map(|value| Self::constant(value.clone()));
            for (leaf, _) in leaves.iter_mut().zip(tracked).filter(|(_, tracked)| *tracked) {
                *leaf = Self::input(leaf.value.clone());
            }
            let output = block(leaves.each_ref())?;
            let mut found = gradients(output, grad.clone())?;
            Ok(leaves.map(|leaf| found.remove(&leaf)))
        }))
    }

    /// Bytes of the tensors that a gradient from here would need, each counted once; those of inputs included, of weights not.
    pub fn kept_bytes(&self) -> usize {
        self.kept().values().sum()
    }

    /// Bytes of the largest tensor in [`Tracked::kept_bytes`].
    pub fn largest_kept_bytes(&self) -> usize {
        self.kept().values().copied().max().unwrap_or(0)
    }

    fn kept(&self) -> HashMap<TensorId, usize> {
        let mut waiting: Vec<&Arc<Origin>> = self.origin.iter().collect();
        let (mut seen, mut tensors) = (std::collections::HashSet::new(), HashMap::new());
        while let Some(origin) = waiting.pop() {
            if seen.insert(origin.order) {
                tensors.extend(origin.kept.iter().copied());
                waiting.extend(origin.parents.iter().flatten());
            }
        }
        tensors
    }
}

/// What a network keeps of its forward pass for the gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All that input gradients need.
    Activations,
    /// Only the inputs of its blocks, which the gradient runs again: one more forward pass in a fraction of the memory.
    BlockInputs,
}

impl Keep {
    /// `block(inputs)`.
    ///
    /// # Errors
    /// The block's.
    pub fn run<const P: usize>(
        self,
        inputs: [&Tracked; P],
        block: impl Fn([&Tracked; P]) -> Result<Tracked> + Send + Sync + 'static,
    ) -> Result<Tracked> {
        match self {
            Self::Activations => block(inputs),
            Self::BlockInputs => Tracked::recomputed(inputs, block),
        }
    }
}

/// Gradients of inputs.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<u64, Tensor>);

impl Gradients {
    /// Takes out the gradient of `input`, if it flowed there.
    pub fn remove(&mut self, input: &Tracked) -> Option<Tensor> {
        self.0.remove(&input.origin.as_ref()?.order)
    }

    /// As [`Gradients::remove`], for an input that the gradient must reach.
    ///
    /// # Errors
    /// It did not.
    pub fn reach(&mut self, input: &Tracked) -> Result<Tensor> {
        match self.remove(input) {
            Some(gradient) => Ok(gradient),
            None => bail!("a gradient does not reach the input that it was asked for"),
        }
    }
}

/// The gradients of Σ `output`·`cotangent` with respect to all inputs. What a step of the computation kept is freed as soon as the
/// gradient has passed it, if nobody else holds its value.
///
/// # Errors
/// An input gradient cannot be computed.
pub fn gradients(output: Tracked, cotangent: Tensor) -> Result<Gradients> {
    let Tracked { value, origin } = output;
    if value.shape() != cotangent.shape() {
        bail!("a value of shape {:?} was given a gradient of shape {:?}", value.shape(), cotangent.shape());
    }
    drop(value);
    let mut found = Gradients::default();
    // A value is always younger than what it was computed from: the youngest has all of its gradient.
    let mut waiting: BTreeMap<u64, (Arc<Origin>, Tensor)> = BTreeMap::new();
    waiting.extend(origin.map(|origin| (origin.order, (origin, cotangent))));
    while let Some((order, (origin, gradient))) = waiting.pop_last() {
        let Some(pull_back) = &origin.pull_back else {
            found.0.insert(order, gradient);
            continue;
        };
        let by_parent = pull_back(&gradient)?;
        drop(gradient);
        for (parent, gradient) in origin.parents.iter().zip(by_parent) {
            let (Some(parent), Some(gradient)) = (parent, gradient) else { continue };
            let gradient = match waiting.remove(&parent.order) {
                Some((_, before)) => (before + gradient)?,
                None => gradient,
            };
            waiting.insert(parent.order, (parent.clone(), gradient));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tensor(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    fn square(x: &Tracked) -> Result<Tracked> {
        Ok(Tracked::record(x.value().sqr()?, [x], [x.value()], |[x], grad| Ok([Some(((grad * x)? * 2.0)?)])))
    }

    fn gradient(output: Tracked, input: &Tracked) -> Vec<f64> {
        let ones = output.value().ones_like().unwrap();
        gradients(output, ones).unwrap().reach(input).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn gradients_of_all_paths_add_up() {
        let x = Tracked::input(tensor(&[1.0, -2.0]));
        // x² + (x²)²: 2x + 4x³
        let squared = square(&x).unwrap();
        let output = squared.add(&square(&squared).unwrap()).unwrap();
        assert_eq!(gradient(output, &x), [6.0, -36.0]);
    }

    #[test]
    fn constants_keep_nothing_and_take_no_gradient() {
        let constant = Tracked::constant(tensor(&[3.0]));
        let output = square(&constant).unwrap();
        assert!(!output.is_tracked());
        assert_eq!(output.kept_bytes(), 0);
        let ones = output.value().ones_like().unwrap();
        let message = gradients(output, ones).unwrap().reach(&constant).unwrap_err().to_string();
        assert!(message.contains("does not reach"), "{message}");
    }

    #[test]
    fn a_recomputed_block_gives_the_same_gradient_and_keeps_only_its_inputs() {
        let (x, y) = (Tracked::input(tensor(&[1.0, -2.0])), Tracked::input(tensor(&[0.5, 3.0])));
        let block = |[x, y]: [&Tracked; 2]| square(&square(x)?.add(&square(y)?)?);
        let (plain, recomputed) = (block([&x, &y]).unwrap(), Tracked::recomputed([&x, &y], block).unwrap());
        assert_eq!(plain.value().to_vec1::<f64>().unwrap(), recomputed.value().to_vec1::<f64>().unwrap());
        assert_eq!((plain.kept_bytes(), recomputed.kept_bytes()), (48, 32));
        assert_eq!(gradient(plain.clone(), &x), gradient(recomputed.clone(), &x));
        assert_eq!(gradient(plain, &y), gradient(recomputed, &y));
        let half = Tracked::recomputed([&x, &Tracked::constant(tensor(&[0.5, 3.0]))], block).unwrap();
        assert_eq!(gradient(half, &x), [5.0, -104.0]);
    }

    #[test]
    fn what_was_kept_is_freed_while_the_gradient_passes() {
        use std::sync::atomic::AtomicUsize;
        static ALIVE: AtomicUsize = AtomicUsize::new(0);
        struct Alive;
        impl Drop for Alive {
            fn drop(&mut self) {
                ALIVE.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let step = |x: &Tracked| {
            let alive = Alive;
            let expected = ALIVE.fetch_add(1, Ordering::SeqCst) + 1;
            Tracked::record(x.value().clone(), [x], [], move |[], grad| {
                let _ = &alive;
                assert_eq!(ALIVE.load(Ordering::SeqCst), expected, "later steps are still alive");
                Ok([Some(grad.clone())])
            })
        };
        let x = Tracked::input(tensor(&[1.0]));
        let output = (0..5).fold(x.clone(), |x, _| step(&x));
        assert_eq!(ALIVE.load(Ordering::SeqCst), 5);
        assert_eq!(gradient(output, &x), [1.0]);
        assert_eq!(ALIVE.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_gradient_of_another_shape_is_an_error() {
        let x = Tracked::input(tensor(&[1.0, 2.0]));
        assert!(gradients(square(&x).unwrap(), tensor(&[1.0])).is_err());
    }
}
