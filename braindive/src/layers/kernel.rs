//! What every layer is built of: a kernel over slices of `f32` or `f64`, run by candle's custom operations.

use candle_core::{CpuStorage, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;
use std::ops::Neg;

/// The types that layers compute in.
pub(crate) trait Element: WithDType + Neg<Output = Self> {
    fn exp(self) -> Self;
    fn floor(self) -> Self;
    /// The error function, to the type's precision.
    fn erf(self) -> Self;

    fn from_usize(value: usize) -> Self {
        Self::from_f64(value as f64)
    }
}

impl Element for f32 {
    fn exp(self) -> Self {
        self.exp()
    }
    fn floor(self) -> Self {
        self.floor()
    }
    fn erf(self) -> Self {
        libm::erff(self)
    }
}

impl Element for f64 {
    fn exp(self) -> Self {
        self.exp()
    }
    fn floor(self) -> Self {
        self.floor()
    }
    fn erf(self) -> Self {
        libm::erf(self)
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

/// Runs `kernel` in the element type of its inputs.
pub(crate) fn run<K: Kernel>(kernel: &K, inputs: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
    fn typed<T: Element, K: Kernel>(kernel: &K, inputs: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
        let inputs = inputs
            .iter()
            .map(|(storage, layout)| contiguous(storage, layout))
            .collect::<Result<Vec<Input<'_, T>>>>()?;
        let (data, shape) = kernel.run(&inputs)?;
        Ok((T::to_cpu_storage_owned(data), shape))
    }
    match inputs.first().map(|(storage, _)| storage) {
        Some(CpuStorage::F64(_)) => typed::<f64, K>(kernel, inputs),
        _ => typed::<f32, K>(kernel, inputs),
    }
}

fn contiguous<'a, T: Element>(storage: &'a CpuStorage, layout: &'a Layout) -> Result<Input<'a, T>> {
    match layout.contiguous_offsets() {
        Some((begin, end)) => Ok(Input { data: &storage.as_slice::<T>()?[begin..end], dims: layout.dims() }),
        None => bail!("a layer's input is not contiguous: {layout:?}"),
    }
}

/// Gives the elements of a frozen, contiguous CPU tensor to `body`.
pub(crate) fn with_elements<T: Element, R>(tensor: &Tensor, body: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(storage) => Ok(body(contiguous::<T>(storage, layout)?.data)),
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

/// Implements candle's custom operation of one, two or three tensors by a [`Kernel`].
macro_rules! custom_op {
    ($op:ty, CustomOp1, $name:literal) => {
        impl candle_core::CustomOp1 for $op {
            fn name(&self) -> &'static str {
                $name
            }
            fn cpu_fwd(
                &self,
                s1: &candle_core::CpuStorage,
                l1: &candle_core::Layout,
            ) -> candle_core::Result<(candle_core::CpuStorage, candle_core::Shape)> {
                $crate::layers::kernel::run(self, &[(s1, l1)])
            }
        }
    };
    ($op:ty, CustomOp2, $name:literal) => {
        impl candle_core::CustomOp2 for $op {
            fn name(&self) -> &'static str {
                $name
            }
            fn cpu_fwd(
                &self,
                s1: &candle_core::CpuStorage,
                l1: &candle_core::Layout,
                s2: &candle_core::CpuStorage,
                l2: &candle_core::Layout,
            ) -> candle_core::Result<(candle_core::CpuStorage, candle_core::Shape)> {
                $crate::layers::kernel::run(self, &[(s1, l1), (s2, l2)])
            }
        }
    };
    ($op:ty, CustomOp3, $name:literal) => {
        impl candle_core::CustomOp3 for $op {
            fn name(&self) -> &'static str {
                $name
            }
            fn cpu_fwd(
                &self,
                s1: &candle_core::CpuStorage,
                l1: &candle_core::Layout,
                s2: &candle_core::CpuStorage,
                l2: &candle_core::Layout,
                s3: &candle_core::CpuStorage,
                l3: &candle_core::Layout,
            ) -> candle_core::Result<(candle_core::CpuStorage, candle_core::Shape)> {
                $crate::layers::kernel::run(self, &[(s1, l1), (s2, l2), (s3, l3)])
            }
        }
    };
}
pub(crate) use custom_op;
