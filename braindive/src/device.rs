//! Devices to compute on.

use candle_core::{Device, Result};

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
    Ok(device)
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

/// Waits until a device has done all that it was asked for.
///
/// # Errors
/// Something of it failed.
pub fn finish(device: &Device) -> Result<()> {
    device.synchronize()
}

#[cfg(feature = "cuda")]
mod pool {
    //! The driver's pool of memory, from which allocations are taken in the order of the stream.

    use super::DeviceMemory;
    use candle_core::cuda_backend::CudaDevice;
    use candle_core::cuda_backend::cudarc::driver::result::{self, DriverError};
    use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUmemoryPool};
    use candle_core::{Error, Result};

    fn pool(cuda: &CudaDevice) -> Result<CUmemoryPool, DriverError> {
        let stream = cuda.cuda_stream();
        stream.context().bind_to_thread()?;
        // SAFETY: the context holds a device.
        unsafe { result::device::get_default_mem_pool(stream.context().cu_device()) }
    }

    pub fn keep_what_is_freed(cuda: &CudaDevice) -> Result<()> {
        if !cuda.cuda_stream().context().has_async_alloc() {
            return Ok(());
        }
        let mut threshold = u64::MAX;
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the attribute is a 64-bit number, which is read before the call returns.
        let set = |pool| unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()) };
        pool(cuda).and_then(set).map_err(Error::wrap)
    }

    pub fn memory(cuda: &CudaDevice) -> Result<DeviceMemory> {
        let read = || {
            let pool = pool(cuda)?;
            let attribute = |attribute| {
                let mut value = 0_u64;
                // SAFETY: the attribute is a 64-bit number.
                unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut value).cast()) }?;
                Ok::<_, DriverError>(value)
            };
            let reserved = attribute(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
            let used = attribute(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
            let (free, total) = result::mem_get_info()?;
            Ok(DeviceMemory { total: total as u64, free: free as u64 + reserved.saturating_sub(used) })
        };
        read().map_err(|error: DriverError| Error::wrap(error))
    }
}
