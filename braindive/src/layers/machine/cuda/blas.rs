//! Matrix products by cuBLAS, with sums in f32.

use crate::layers::machine::{Operand, Product};
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::{DType, Error, Result, bail};
use std::ffi::{c_int, c_longlong, c_void};

/// Forbids cuBLAS to add partial sums of a product in the type of its output: in f16 they could overflow.
pub(super) fn keep_sums(device: &CudaDevice) -> Result<()> {
    device.cuda_stream().context().bind_to_thread().map_err(Error::wrap)?;
    let mode = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    // SAFETY: the device holds the handle.
    unsafe { sys::cublasSetMathMode(*device.cublas_handle().handle(), mode) }.result().map_err(Error::wrap)
}

/// cuBLAS reads memory column by column, so that our matrices are to it their transposes: outputᵀ = rightᵀ · leftᵀ.
pub(super) fn multiply(device: &CudaDevice, p: &Product) -> Result<()> {
    device.cuda_stream().context().bind_to_thread().map_err(Error::wrap)?;
    let (scale, before) = (p.scale, if p.accumulate { 1.0_f32 } else { 0.0 });
    let blas = device.cublas_handle();
    let address = |operand: Operand| operand.address as *const c_void;
    // SAFETY: the operands lie in tensors of this device that the layer holds; scalars are read before the call returns.
    unsafe {
        result::gemm_strided_batched_ex(
            *blas.handle(),
            operation(p.right),
            operation(p.left),
            int(p.columns)?,
            int(p.rows)?,
            int(p.inner)?,
            (&raw const scale).cast(),
            address(p.right),
            data_type(p.right.dtype)?,
            int(p.right.stride)?,
            p.right.batch_stride as c_longlong,
            address(p.left),
            data_type(p.left.dtype)?,
            int(p.left.stride)?,
            p.left.batch_stride as c_longlong,
            (&raw const before).cast(),
            p.output.address as *mut c_void,
            data_type(p.output.dtype)?,
            int(p.output.stride)?,
            p.output.batch_stride as c_longlong,
            int(p.batch)?,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(Error::wrap)
}

fn operation(operand: Operand) -> sys::cublasOperation_t {
    if operand.transposed { sys::cublasOperation_t::CUBLAS_OP_T } else { sys::cublasOperation_t::CUBLAS_OP_N }
}

fn data_type(dtype: DType) -> Result<sys::cudaDataType> {
    match dtype {
        DType::F32 => Ok(sys::cudaDataType::CUDA_R_32F),
        DType::F16 => Ok(sys::cudaDataType::CUDA_R_16F),
        DType::BF16 => Ok(sys::cudaDataType::CUDA_R_16BF),
        other => bail!("a product was asked for in {other:?}"),
    }
}

fn int(extent: usize) -> Result<c_int> {
    match c_int::try_from(extent) {
        Ok(extent) => Ok(extent),
        Err(_) => bail!("an extent of {extent} is too large for a matrix product; put fewer images into a batch"),
    }
}
