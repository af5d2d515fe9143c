//! A GPU: kernels from PTX, products by cuBLAS, convolutions by cuDNN where it is installed.
//!
//! All work of a device goes through one stream, so that it runs in the order in which it was asked for, whatever thread asked.

mod blas;
mod cudnn;

use super::{Convolution, Machine, Product};
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice, kernels};
use candle_core::op::BackpropOp;
use candle_core::{DType, Error, Result, Shape, Storage, Tensor, bail};
use gpu::{Argument, Element, Grid};

#[derive(Debug)]
pub(crate) struct Cuda<'a> {
    device: &'a CudaDevice,
}

impl<'a> Cuda<'a> {
    pub fn new(device: &'a CudaDevice) -> Self {
        Self { device }
    }
}

fn element(dtype: DType) -> Result<Element> {
    match dtype {
        DType::F32 => Ok(Element::F32),
        DType::F16 => Ok(Element::F16),
        DType::BF16 => Ok(Element::Bf16),
        other => bail!("GPUs compute in f32, f16 and bf16 here; a kernel was asked for {other:?}"),
    }
}

/// The name under which the device keeps the kernels of a type once they are loaded.
fn module(element: Element) -> &'static str {
    match element {
        Element::F32 => "braindive-f32",
        Element::F16 => "braindive-f16",
        Element::Bf16 => "braindive-bf16",
    }
}

/// candle's modules that layers and samplers use.
const CANDLES: [&kernels::Module; 9] = [
    &kernels::AFFINE,
    &kernels::BINARY,
    &kernels::CAST,
    &kernels::CONV,
    &kernels::FILL,
    &kernels::INDEXING,
    &kernels::REDUCE,
    &kernels::TERNARY,
    &kernels::UNARY,
];

/// Readies a device: sums of products stay in f32, and kernels are loaded.
pub(crate) fn prepare(device: &CudaDevice) -> Result<()> {
    blas::keep_sums(device)?;
    load(device)
}

/// Loads all kernels, before threads ask for them: of two that load a module at once, the device keeps one, and unloads the other below the
/// kernels that were launched from it.
fn load(device: &CudaDevice) -> Result<()> {
    let (major, _) = device.cuda_stream().context().compute_capability().map_err(Error::wrap)?;
    let elements = [Element::F32, Element::F16].into_iter().chain((major >= 8).then_some(Element::Bf16));
    for element in elements {
        if let Some(kernel) = gpu::first_kernel(gpu::ptx(element)) {
            device.get_or_load_custom_func(kernel, module(element), gpu::ptx(element))?;
        }
    }
    for candles in CANDLES {
        if let Some(kernel) = gpu::first_kernel(candles.ptx()) {
            device.get_or_load_func(kernel, candles)?;
        }
    }
    Ok(())
}

impl Machine for Cuda<'_> {
    fn empty(&self, shape: Shape, dtype: DType) -> Result<Tensor> {
        let count = shape.elem_count();
        // SAFETY: whoever asks for an undefined tensor writes all of it.
        let slice = unsafe {
            match element(dtype)? {
                Element::F32 => CudaStorageSlice::F32(self.device.alloc(count)?),
                Element::F16 => CudaStorageSlice::F16(self.device.alloc(count)?),
                Element::Bf16 => CudaStorageSlice::BF16(self.device.alloc(count)?),
            }
        };
        let storage = Storage::Cuda(CudaStorage { slice, device: self.device.clone() });
        Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
    }

    fn address(&self, tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((begin, _)) = layout.contiguous_offsets() else { bail!("a kernel was given a strided tensor") };
        let Storage::Cuda(storage) = &*storage else { bail!("a kernel was given a tensor that is not on its GPU") };
        let stream = self.device.cuda_stream();
        // Events are not tracked, there being one stream; so the guards that are dropped here do nothing.
        let start = match &storage.slice {
            CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
            _ => bail!("GPUs compute in f32, f16 and bf16 here; a kernel was given {:?}", tensor.dtype()),
        };
        Ok(start + (begin * tensor.dtype().size_in_bytes()) as u64)
    }

    fn launch(&self, kernel: &'static str, dtype: DType, grid: Grid, arguments: &[Argument]) -> Result<()> {
        let element = element(dtype)?;
        self.device.cuda_stream().context().bind_to_thread().map_err(Error::wrap)?;
        let function = self.device.get_or_load_custom_func(kernel, module(element), gpu::ptx(element))?;
        let mut launch = function.builder();
        for argument in arguments {
            match argument {
                Argument::Pointer(value) => launch.arg(value),
                Argument::Int(value) => launch.arg(value),
                Argument::Long(value) => launch.arg(value),
                Argument::Float(value) => launch.arg(value),
            };
        }
        let [x, y, z] = grid.blocks;
        let shape = LaunchConfig { grid_dim: (x, y, z), block_dim: (grid.threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the layers pass what the kernels take; the emulation checks it, launch by launch.
        unsafe { launch.launch(shape) }.map_err(Error::wrap)?;
        Ok(())
    }

    fn multiply(&self, product: &Product) -> Result<()> {
        blas::multiply(self.device, product)
    }

    fn convolve(&self, convolution: &Convolution<'_>) -> Result<bool> {
        cudnn::convolve(self, convolution)
    }
}
