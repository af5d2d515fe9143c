//! Looks for numbers that are not finite, without waiting for the device in every step.

use crate::error::{Error, Result};
use candle_core::{D, DType, Tensor};

/// Steps between two looks at what a GPU found: it is waited for as often.
const STEPS: usize = 10;

/// The step in which an image first held a number that is not finite, and where.
pub(super) type Failure = (usize, &'static str);

/// What was seen of a batch.
#[derive(Debug)]
pub(super) struct Watch {
    /// Of every image.
    failures: Vec<Option<Failure>>,
    /// Not looked at yet: of every image a number, [batch], which is finite if all were.
    seen: Vec<(Failure, Tensor)>,
}

impl Watch {
    pub fn new(images: usize) -> Self {
        Self { failures: vec![None; images], seen: Vec::new() }
    }

    /// Notes `what` [batch, ...] of step `step`.
    pub fn note(&mut self, step: usize, what: &'static str, tensor: &Tensor) -> Result<()> {
        self.seen.push(((step, what), finite_if_all_are(tensor)?));
        Ok(())
    }

    /// Looks at what was noted, if the device has it anyway or steps enough have passed.
    ///
    /// # Errors
    /// No image is left that is finite.
    pub fn look(&mut self, step: usize) -> Result<()> {
        let at_hand = self.seen.iter().all(|(_, tensor)| tensor.device().is_cpu());
        if at_hand || step % STEPS == STEPS - 1 { self.settle() } else { Ok(()) }
    }

    /// Looks at all that was noted.
    ///
    /// # Errors
    /// No image is left that is finite.
    pub fn settle(&mut self) -> Result<()> {
        let (noted, tensors): (Vec<Failure>, Vec<Tensor>) = self.seen.drain(..).unzip();
        if !tensors.is_empty() {
            let values = Tensor::stack(&tensors, 0)?.to_vec2::<f64>()?;
            for (failure, values) in noted.into_iter().zip(values) {
                for (first, _) in self.failures.iter_mut().zip(values).filter(|(_, value)| !value.is_finite()) {
                    first.get_or_insert(failure);
                }
            }
        }
        match self.failures.iter().min().copied().flatten() {
            Some((step, what)) => Err(Error::NonFinite { step, what }),
            None => Ok(()),
        }
    }

    /// An image's failure, or what comes of the image that was decoded in the end: one [1, 3, H, W].
    pub fn judge(&self, i: usize, step: usize, image: &Tensor) -> Result<Option<Failure>> {
        if let Some(failure) = self.failures[i] {
            return Ok(Some(failure));
        }
        let finite = finite_if_all_are(image)?.to_vec1::<f64>()?.into_iter().all(f64::is_finite);
        Ok((!finite).then_some((step, "the decoded image")))
    }
}

/// A sum is finite only if all terms are; f64 holds the sum of any f32s. [batch], f64.
fn finite_if_all_are(tensor: &Tensor) -> Result<Tensor> {
    let tensor = tensor.to_dtype(DType::F64)?;
    Ok(if tensor.rank() == 1 { tensor } else { tensor.flatten_from(1)?.sum(D::Minus1)? })
}
