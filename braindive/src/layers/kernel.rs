//! What every layer is built of: a kernel over slices of `f32` or `f64`.
//!
//! Half precision is how tensors are stored, not how layers compute: inputs and weights of f16 and bf16 are widened to f32, and the
//! output is rounded once, as a GPU's kernels with f32 accumulators do.

use super::elementary;
use super::machine::{self, Launch};
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor, WithDType, bail};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Neg;

/// The types that layers compute in.
pub trait Element: WithDType + Neg<Output = Self> {
    fn exp(self) -> Self;
    fn floor(self) -> Self;
    fn sqrt(self) -> Self;
    /// The error function, to the type's precision.
    fn erf(self) -> Self;
    /// Converts f16 or bf16 exactly; the slices have one length.
    fn widen(halves: &(impl HalfFloatSliceExt + ?Sized), wide: &mut [Self]);

    fn from_usize(value: usize) -> Self {
        Self::from_f64(value as f64)
    }
}

impl Element for f32 {
    #[inline(always)]
    fn exp(self) -> Self {
        elementary::exp(self)
    }
    #[inline(always)]
    fn floor(self) -> Self {
        self.floor()
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    #[inline(always)]
    fn erf(self) -> Self {
        elementary::erf(self)
    }
    fn widen(halves: &(impl HalfFloatSliceExt + ?Sized), wide: &mut [Self]) {
        halves.convert_to_f32_slice(wide);
    }
}

impl Element for f64 {
    #[inline(always)]
    fn exp(self) -> Self {
        self.exp()
    }
    #[inline(always)]
    fn floor(self) -> Self {
        self.floor()
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    #[inline(always)]
    fn erf(self) -> Self {
        libm::erf(self)
    }
    fn widen(halves: &(impl HalfFloatSliceExt + ?Sized), wide: &mut [Self]) {
        halves.convert_to_f64_slice(wide);
    }
}

/// A contiguous input of a kernel.
pub(crate) struct Input<'a, T> {
    pub data: &'a [T],
    pub dims: &'a [usize],
}

impl<T> Input<'_, T> {
    /// Length of the last dimension.
    pub fn width(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }
}

/// A computation from contiguous inputs to one output.
pub(crate) trait Kernel {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<(Vec<T>, Shape)>;
}

/// A computation from contiguous inputs to several outputs.
pub(crate) trait Kernels {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<Vec<(Vec<T>, Shape)>>;
}

impl<K: Kernel> Kernels for K {
    fn run<T: Element>(&self, inputs: &[Input<'_, T>]) -> Result<Vec<(Vec<T>, Shape)>> {
        Ok(vec![Kernel::run(self, inputs)?])
    }
}

/// Runs `kernel` where its inputs are, in their element type; of the first, where types meet. The inputs are made contiguous.
pub(crate) fn run(kernel: &(impl Kernel + Launch), inputs: &[&Tensor]) -> Result<Tensor> {
    Ok(run_all(kernel, inputs)?.remove(0))
}

/// As [`run`]: the outputs in the order of the kernel.
pub(crate) fn run_all(kernel: &(impl Kernels + Launch), inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let Some(first) = inputs.first() else { bail!("a layer was given no input") };
    match machine::of(first.device())? {
        Some(machine) => machine::run(kernel, &*machine, inputs),
        None => on_cpu(kernel, inputs),
    }
}

fn on_cpu(kernel: &impl Kernels, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let inputs = inputs.iter().map(|input| input.contiguous()).collect::<Result<Vec<_>>>()?;
    let locked: Vec<_> = inputs.iter().map(|input| input.storage_and_layout()).collect();
    let inputs = locked
        .iter()
        .map(|(storage, layout)| match &**storage {
            Storage::Cpu(storage) => Ok((storage, *layout)),
            _ => bail!("the inputs of a layer are on different devices"),
        })
        .collect::<Result<Vec<_>>>()?;
    let tensor = |(storage, shape)| Tensor::from_storage(Storage::Cpu(storage), shape, BackpropOp::none(), false);
    Ok(outputs(kernel, &inputs)?.into_iter().map(tensor).collect())
}

fn outputs<K: Kernels>(kernel: &K, inputs: &[(&CpuStorage, &Layout)]) -> Result<Vec<(CpuStorage, Shape)>> {
    fn typed<T: Element, K: Kernels>(
        kernel: &K,
        inputs: &[(&CpuStorage, &Layout)],
        store: impl Fn(Vec<T>) -> CpuStorage,
    ) -> Result<Vec<(CpuStorage, Shape)>> {
        let data = inputs.iter().map(|(storage, layout)| elements(storage, layout)).collect::<Result<Vec<_>>>()?;
        let inputs: Vec<Input<'_, T>> =
            data.iter().zip(inputs).map(|(data, (_, layout))| Input { data, dims: layout.dims() }).collect();
        Ok(kernel.run(&inputs)?.into_iter().map(|(data, shape)| (store(data), shape)).collect())
    }
    match inputs.first().map(|(storage, _)| storage) {
        Some(CpuStorage::F64(_)) => typed(kernel, inputs, CpuStorage::F64),
        Some(CpuStorage::F16(_)) => typed(kernel, inputs, |data| CpuStorage::F16(rounded(&data, f16::ZERO))),
        Some(CpuStorage::BF16(_)) => typed(kernel, inputs, |data| CpuStorage::BF16(rounded(&data, bf16::ZERO))),
        _ => typed(kernel, inputs, CpuStorage::F32),
    }
}

/// The elements of a contiguous tensor: borrowed, or widened from f16 or bf16.
fn elements<'a, T: Element>(storage: &'a CpuStorage, layout: &Layout) -> Result<Cow<'a, [T]>> {
    let Some((begin, end)) = layout.contiguous_offsets() else {
        bail!("a layer's input is not contiguous: {layout:?}");
    };
    Ok(match storage {
        CpuStorage::F16(halves) => Cow::Owned(widened(&halves[begin..end])),
        CpuStorage::BF16(halves) => Cow::Owned(widened(&halves[begin..end])),
        storage => Cow::Borrowed(&storage.as_slice::<T>()?[begin..end]),
    })
}

/// Elements that one task converts.
const CONVERTED: usize = 1 << 16;

fn widened<T: Element, H: Sync>(halves: &[H]) -> Vec<T>
where
    [H]: HalfFloatSliceExt,
{
    let mut wide = vec![T::zero(); halves.len()];
    for_each_chunk(&mut wide, CONVERTED, 4 * halves.len(), |i, wide| {
        T::widen(&halves[i * CONVERTED..][..wide.len()], wide);
    });
    wide
}

fn rounded<H: Clone + Send>(wide: &[f32], zero: H) -> Vec<H>
where
    [H]: HalfFloatSliceExt,
{
    let mut halves = vec![zero; wide.len()];
    for_each_chunk(&mut halves, CONVERTED, 4 * wide.len(), |i, halves| {
        halves.convert_from_f32_slice(&wide[i * CONVERTED..][..halves.len()]);
    });
    halves
}

/// Gives the elements of a frozen, contiguous CPU tensor to `body`; those of f16 and bf16 are widened on every use.
pub(crate) fn with_elements<T: Element, R>(tensor: &Tensor, body: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(body(&elements::<T>(storage, layout)?)),
        _ => bail!("a frozen weight is not on the CPU"),
    }
}

/// As [`with_elements`], for a weight that a layer may lack.
pub(crate) fn with_optional<T: Element, R>(tensor: Option<&Tensor>, body: impl FnOnce(Option<&[T]>) -> R) -> Result<R> {
    match tensor {
        Some(tensor) => with_elements(tensor, |elements| body(Some(elements))),
        None => Ok(body(None)),
    }
}

/// Below this many operations a task costs less than waking another thread.
const PARALLEL_WORK: usize = 1 << 21;

/// Calls `body(i, chunk)` for every chunk of `output`, on all cores if `work`, the number of operations in all, is worth it.
/// An empty output has no chunks, whatever their length.
/// Chunks never depend on the number of threads, so neither does the result.
pub(crate) fn for_each_chunk<T: Send>(
    output: &mut [T],
    chunk: usize,
    work: usize,
    body: impl Fn(usize, &mut [T]) + Send + Sync,
) {
    if output.is_empty() {
        return;
    }
    if work < PARALLEL_WORK || output.len() <= chunk {
        output.chunks_mut(chunk).enumerate().for_each(|(i, chunk)| body(i, chunk));
    } else {
        output.par_chunks_mut(chunk).enumerate().for_each(|(i, chunk)| body(i, chunk));
    }
}

/// `body(0), …, body(n - 1)` in order, on all cores if `work` is worth it.
pub(crate) fn map_tasks<R: Send>(n: usize, work: usize, body: impl Fn(usize) -> R + Send + Sync) -> Vec<R> {
    if work < PARALLEL_WORK || n <= 1 { (0..n).map(body).collect() } else { (0..n).into_par_iter().map(body).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{assert_close, random};
    use super::super::{Activation, Attention, Linear, geglu, resize_bilinear, upsample_nearest_2x};
    use crate::gradient::Tracked;
    use candle_core::{DType, Result, Tensor};

    /// `layer` on numbers of `narrow` gives what it gives on the same numbers in f32, rounded to `narrow`; so does its gradient, to `tolerance`.
    fn assert_rounds_once(
        narrow: DType,
        x: &[usize],
        tolerance: f64,
        layer: impl Fn(&Tracked, DType) -> Result<Tracked>,
    ) {
        let half = |x: &Tensor| x.to_dtype(narrow).unwrap();
        let halves = half(&(random(x, 1) * 3.0).unwrap());
        let wide = halves.to_dtype(DType::F32).unwrap();
        let (y16, y32) = (layer(&Tracked::from(&halves), narrow), layer(&Tracked::from(&wide), DType::F32));
        let (y16, y32) = (y16.unwrap().into_value(), y32.unwrap().into_value());
        assert_eq!(y16.dtype(), narrow);
        assert_close(&y16, &half(&y32), 0.0);
        let cotangent = half(&random(y16.dims(), 2));
        let gradient = |x: &Tensor, dtype| {
            let input = Tracked::input(x.clone());
            let output = layer(&input, dtype).unwrap();
            let mut found = crate::gradient::gradients(output, cotangent.to_dtype(dtype).unwrap()).unwrap();
            found.reach(&input).unwrap()
        };
        let (g16, g32) = (gradient(&halves, narrow), gradient(&wide, DType::F32));
        assert_eq!(g16.dtype(), narrow);
        assert_close(&g16, &half(&g32), tolerance);
    }

    #[test]
    fn half_precision_is_computed_in_f32_and_rounded_once() {
        // The gradient of attention reads its output, which was rounded.
        for (narrow, attention) in [(DType::F16, 2e-3), (DType::BF16, 2e-2)] {
            let weight = random(&[5, 12], 3).to_dtype(narrow).unwrap();
            let linear = |dtype| Linear::new(&weight.to_dtype(dtype).unwrap(), None).unwrap();
            assert_rounds_once(narrow, &[2, 7, 12], 0.0, |x, dtype| linear(dtype).forward(x));
            assert_rounds_once(narrow, &[2, 7, 12], 0.0, |x, _| geglu(x));
            assert_rounds_once(narrow, &[2, 70_000], 0.0, |x, _| Activation::Gelu.forward(x));
            assert_rounds_once(narrow, &[1, 3, 8, 8], 0.0, |x, _| upsample_nearest_2x(x));
            assert_rounds_once(narrow, &[1, 3, 8, 8], 0.0, |x, _| resize_bilinear(x, 5, 5));
            let other = random(&[2, 9, 12], 4).to_dtype(narrow).unwrap();
            assert_rounds_once(narrow, &[2, 7, 12], attention, |x, dtype| {
                let keys = Tracked::from(other.to_dtype(dtype)?);
                Attention::new(3).forward(x, &keys, &keys)
            });
        }
    }
}
