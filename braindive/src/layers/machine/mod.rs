//! Where kernels in CUDA C are launched: what a layer's device side is written against.
//!
//! [`Launch`] is the second half of a layer: the same computation as its [`Kernel`](super::kernel::Kernel), by launches on a [`Machine`]. A
//! machine is a GPU, or the emulation that runs the same launches on the CPU, so that they are tested where there is no GPU.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(test)]
pub(crate) mod emulated;
mod product;

#[cfg(feature = "cuda")]
pub(crate) use cuda::prepare;
pub use product::{Operand, Product};

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use gpu::{Argument, Grid};

/// Something that kernels are launched on. What is launched runs in order, later than the call.
pub trait Machine {
    /// A tensor whose elements are not defined yet.
    ///
    /// # Errors
    /// The machine has no memory left, or does not compute in this type.
    fn empty(&self, shape: Shape, dtype: DType) -> Result<Tensor>;

    /// Where the elements of a contiguous tensor of this machine begin.
    ///
    /// # Errors
    /// The tensor is strided, or of another machine.
    fn address(&self, tensor: &Tensor) -> Result<u64>;

    /// Launches the kernel of that name, compiled for the element type.
    ///
    /// # Errors
    /// There is no such kernel, or the machine refuses the launch.
    fn launch(&self, kernel: &'static str, element: DType, grid: Grid, arguments: &[Argument]) -> Result<()>;

    /// Computes matrix products.
    ///
    /// # Errors
    /// The machine refuses them.
    fn multiply(&self, product: &Product) -> Result<()>;

    /// Elements of what a layer makes on the way, patches or logits, that it makes at a time. In half precision so many stay in the second-level
    /// cache of a large GPU.
    fn scratch_elements(&self) -> usize {
        1 << 24
    }

    /// Computes a convolution by the vendor's library, if there is one for this: whether it did.
    ///
    /// # Errors
    /// The library failed.
    fn convolve(&self, _convolution: &Convolution<'_>) -> Result<bool> {
        Ok(false)
    }
}

/// A convolution of a batch, or its adjoint, as a library is asked for it.
#[derive(Debug)]
pub struct Convolution<'a> {
    /// [outputs, inputs, kernel, kernel]
    pub weight: &'a Tensor,
    /// [batch, inputs, height, width]: what is read, or by the adjoint written.
    pub input: &'a Tensor,
    /// [batch, outputs, height, width]: what is written, or by the adjoint read.
    pub output: &'a Tensor,
    pub stride: usize,
    pub padding: usize,
    pub adjoint: bool,
}

/// The machine that a device is; none where layers compute on the CPU itself.
pub(super) fn of(device: &Device) -> Result<Option<Box<dyn Machine + '_>>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Ok(Some(Box::new(cuda::Cuda::new(device)))),
        #[cfg(test)]
        Device::Cpu if emulated::entered() => Ok(Some(Box::new(emulated::Emulated))),
        Device::Cpu => Ok(None),
        _ => bail!("no layer computes on a device such as {device:?}"),
    }
}

/// A computation by launches. Inputs are contiguous, and of one element type, f32, f16 or bf16.
pub trait Launch {
    /// The outputs, in the order of the kernel.
    ///
    /// # Errors
    /// The machine's.
    fn launch(&self, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>>;
}

/// Runs `computation` on a machine, once its inputs are of one type: the first one's.
pub(super) fn run(computation: &impl Launch, machine: &dyn Machine, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let Some(first) = inputs.first() else { bail!("a layer was given no input") };
    if !matches!(first.dtype(), DType::F32 | DType::F16 | DType::BF16) {
        bail!("GPUs compute in f32, f16 and bf16 here; a layer was given {:?}", first.dtype());
    }
    let inputs = inputs.iter().map(|input| of_type(input, first.dtype())).collect::<Result<Vec<_>>>()?;
    computation.launch(machine, &inputs.iter().collect::<Vec<_>>())
}

/// The tensor, contiguous and of this type: itself, where it is already.
pub(super) fn of_type(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    tensor.to_dtype(dtype)?.contiguous()
}

/// Threads of a block where nothing asks for another number.
pub(super) const THREADS: usize = 256;

/// A thread for each of `count` elements.
pub(super) fn for_each_element(count: usize) -> Result<Grid> {
    grid([count.div_ceil(THREADS), 1, 1])
}

/// Blocks of [`THREADS`] threads.
pub(super) fn grid(blocks: [usize; 3]) -> Result<Grid> {
    let [x, y, z] = blocks;
    let limits = [i32::MAX as usize, 65_535, 65_535];
    if blocks.iter().zip(limits).any(|(&blocks, limit)| blocks == 0 || blocks > limit) {
        bail!(
            "a kernel over {x} × {y} × {z} blocks cannot be launched; make smaller images, or put fewer into a batch"
        );
    }
    Ok(Grid { blocks: [x as u32, y as u32, z as u32], threads: THREADS as u32 })
}

/// An extent as CUDA C's `int`.
pub(super) fn int(extent: usize) -> Result<Argument> {
    match i32::try_from(extent) {
        Ok(extent) => Ok(Argument::Int(extent)),
        Err(_) => bail!("an extent of {extent} is too large for a kernel"),
    }
}

/// Several extents.
pub(super) fn ints<const N: usize>(extents: [usize; N]) -> Result<Vec<Argument>> {
    extents.into_iter().map(int).collect()
}

/// A number of elements as CUDA C's `long long`.
pub(super) fn long(count: usize) -> Argument {
    Argument::Long(count as i64)
}

impl dyn Machine + '_ {
    /// The address of a tensor as an argument.
    ///
    /// # Errors
    /// As [`Machine::address`].
    pub fn pointer(&self, tensor: &Tensor) -> Result<Argument> {
        Ok(Argument::Pointer(self.address(tensor)?))
    }

    /// A tensor of the shape and type of another one, whose elements are not defined yet.
    ///
    /// # Errors
    /// As [`Machine::empty`].
    pub fn like(&self, tensor: &Tensor) -> Result<Tensor> {
        self.empty(tensor.shape().clone(), tensor.dtype())
    }

    /// A matrix, or the first of a batch of them, in a contiguous tensor: from element `offset`, rows `stride` apart.
    ///
    /// # Errors
    /// As [`Machine::address`].
    pub fn operand(&self, tensor: &Tensor, offset: usize, stride: usize) -> Result<Operand> {
        let address = self.address(tensor)? + (offset * tensor.dtype().size_in_bytes()) as u64;
        Ok(Operand { address, dtype: tensor.dtype(), stride, transposed: false, batch_stride: 0 })
    }
}

#[cfg(test)]
mod tests;
