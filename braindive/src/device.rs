//! Devices to compute on.

use candle_core::{Device, Result};
use serde::Serialize;

/// Memory of a device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    pub total: u64,
    /// That this process can have: free on the device, or kept by this process for what comes next.
    pub free: u64,
}

/// Opens GPU number `ordinal`. NVIDIA's libraries must have been loaded.
///
/// All its work goes through one stream, from whatever thread it is asked for. What is freed stays with the process, so that from the second
/// step on no step asks the driver for memory.
///
/// # Errors
/// The driver cannot give it.
#[cfg(feature = "cuda")]
pub fn open_cuda(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: there is one stream, so that everything happens in the order in which it was asked for.
    unsafe { cuda.disable_event_tracking() };
    pool::keep_what_is_freed(cuda)?;
    crate::layers::machine::prepare(cuda)?;
    // Kept to the end: to give back cuBLAS and cuRAND on a card that has failed would panic, after what failed was told.
    std::mem::forget(device.clone());
    Ok(device)
}

/// Whether this build has candle's kernels for bf16: only compilers for compute capability 8.0 or higher make more of them than casts
/// (`CUDA_COMPUTE_CAP=80`).
pub fn has_bf16_kernels() -> bool {
    #[cfg(feature = "cuda")]
    {
        candle_core::cuda_backend::kernels::AFFINE.ptx().contains("affine_bf16")
    }
    #[cfg(not(feature = "cuda"))]
    false
}

/// What memory a GPU has; `None` for the CPU.
///
/// # Errors
/// The driver does not say.
pub fn memory(device: &Device) -> Result<Option<DeviceMemory>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => pool::memory(cuda).map(Some),
        _ => Ok(None),
    }
}

/// What this process has asked of GPUs so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Calls {
    /// Kernels, matrix products and convolutions; the libraries may launch several kernels for one.
    pub launches: u64,
    /// Waits for the device, copies to the host included.
    pub waits: u64,
    /// Pieces of memory.
    pub allocations: u64,
}

impl Calls {
    /// From `before` to this.
    pub fn since(self, before: Self) -> Self {
        Self {
            launches: self.launches - before.launches,
            waits: self.waits - before.waits,
            allocations: self.allocations - before.allocations,
        }
    }
}

/// What was asked of GPUs so far; nothing in a build without them.
pub fn calls() -> Calls {
    #[cfg(feature = "cuda")]
    {
        use gpu::libraries::{Library, calls};
        let launches = calls(Library::Driver, &["cuLaunch"])
            + calls(Library::CuBlas, &["cublasGemm", "cublasSgemm", "cublasDgemm"])
            + calls(Library::Cudnn, &["cudnnConvolution"]);
        let waits =
            calls(Library::Driver, &["cuStreamSynchronize", "cuCtxSynchronize", "cuEventSynchronize", "cuMemcpyDtoH"]);
        let allocations = calls(Library::Driver, &["cuMemAlloc"]);
        Calls { launches, waits, allocations }
    }
    #[cfg(not(feature = "cuda"))]
    Calls::default()
}

/// Forgets the most memory that was in use on a device at a time, so that [`peak_bytes`] counts from now on.
///
/// # Errors
/// The driver refuses.
pub fn forget_peak(device: &Device) -> Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) if pool::exists(cuda) => pool::forget_peak(cuda),
        _ => Ok(()),
    }
}

/// The most memory of a GPU that was in use by this process at a time since [`forget_peak`]; `None` for the CPU, and for a GPU without a pool
/// of memory, such as some virtual ones.
///
/// # Errors
/// The driver does not say.
pub fn peak_bytes(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) if pool::exists(cuda) => pool::peak_bytes(cuda).map(Some),
        _ => Ok(None),
    }
}

#[cfg(feature = "cuda")]
mod pool {
    //! The driver's pool of memory, from which allocations are taken in the order of the stream.

    use super::DeviceMemory;
    use candle_core::cuda_backend::CudaDevice;
    use candle_core::cuda_backend::cudarc::driver::result::{self, DriverError};
    use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUmemoryPool};
    use candle_core::{Error, Result};

    /// What the driver answers.
    type Driven<T> = std::result::Result<T, DriverError>;

    fn pool(cuda: &CudaDevice) -> Driven<CUmemoryPool> {
        let stream = cuda.cuda_stream();
        stream.context().bind_to_thread()?;
        // SAFETY: the context holds a device.
        unsafe { result::device::get_default_mem_pool(stream.context().cu_device()) }
    }

    /// Whether the device has one; else memory is asked of the driver each time.
    pub fn exists(cuda: &CudaDevice) -> bool {
        cuda.cuda_stream().context().has_async_alloc()
    }

    pub fn keep_what_is_freed(cuda: &CudaDevice) -> Result<()> {
        if !exists(cuda) {
            return Ok(());
        }
        let mut threshold = u64::MAX;
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the attribute is a 64-bit number, which is read before the call returns.
        let set = |pool| unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()) };
        pool(cuda).and_then(set).map_err(Error::wrap)
    }

    fn read(cuda: &CudaDevice, attribute: CUmemPool_attribute) -> Driven<u64> {
        let mut value = 0_u64;
        // SAFETY: the attribute is a 64-bit number.
        unsafe { result::mem_pool::get_attribute(pool(cuda)?, attribute, (&raw mut value).cast()) }?;
        Ok(value)
    }

    pub fn memory(cuda: &CudaDevice) -> Result<DeviceMemory> {
        let read = || {
            cuda.cuda_stream().context().bind_to_thread()?;
            let (free, total) = result::mem_get_info()?;
            let kept = if exists(cuda) {
                let reserved = read(cuda, CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
                reserved.saturating_sub(read(cuda, CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?)
            } else {
                0
            };
            Ok(DeviceMemory { total: total as u64, free: free as u64 + kept })
        };
        read().map_err(|error: DriverError| Error::wrap(error))
    }

    pub fn forget_peak(cuda: &CudaDevice) -> Result<()> {
        let mut zero = 0_u64;
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        // SAFETY: the attribute is a 64-bit number, which may be set to 0.
        let set = |pool| unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut zero).cast()) };
        pool(cuda).and_then(set).map_err(Error::wrap)
    }

    pub fn peak_bytes(cuda: &CudaDevice) -> Result<u64> {
        read(cuda, CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH).map_err(Error::wrap)
    }
}
