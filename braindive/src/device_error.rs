//! What a CUDA error means for the process that meets it: memory ran out, which less work mends, or the device's context is dead, which
//! only another process mends. Sources: `CUresult` of the driver API, of which these errors leave "the process in an inconsistent
//! state", `cublasStatus_t`, `cudnnStatus_t`.

use crate::error::ErrorKind;
use std::fmt::Debug;

/// By the names that driver and libraries give them. What kills the context comes first: it may be why memory cannot be had.
const ERRORS: [(&str, ErrorKind); 27] = {
    use ErrorKind::{DeviceFault, OutOfMemory};
    [
        ("CUDA_ERROR_DEVICE_UNAVAILABLE", DeviceFault),
        ("CUDA_ERROR_ECC_UNCORRECTABLE", DeviceFault),
        ("CUDA_ERROR_NVLINK_UNCORRECTABLE", DeviceFault),
        ("CUDA_ERROR_CONTAINED", DeviceFault),
        ("CUDA_ERROR_ILLEGAL_ADDRESS", DeviceFault),
        ("CUDA_ERROR_LAUNCH_TIMEOUT", DeviceFault),
        ("CUDA_ERROR_CONTEXT_IS_DESTROYED", DeviceFault),
        ("CUDA_ERROR_ASSERT", DeviceFault),
        ("CUDA_ERROR_HARDWARE_STACK_ERROR", DeviceFault),
        ("CUDA_ERROR_ILLEGAL_INSTRUCTION", DeviceFault),
        ("CUDA_ERROR_MISALIGNED_ADDRESS", DeviceFault),
        ("CUDA_ERROR_INVALID_ADDRESS_SPACE", DeviceFault),
        ("CUDA_ERROR_INVALID_PC", DeviceFault),
        ("CUDA_ERROR_LAUNCH_FAILED", DeviceFault),
        ("CUDA_ERROR_TENSOR_MEMORY_LEAK", DeviceFault),
        ("CUDA_ERROR_MPS_CLIENT_TERMINATED", DeviceFault),
        ("CUDA_ERROR_EXTERNAL_DEVICE", DeviceFault),
        // What is left of a card that fell off the bus.
        ("CUDA_ERROR_UNKNOWN", DeviceFault),
        ("CUBLAS_STATUS_EXECUTION_FAILED", DeviceFault),
        ("CUDNN_STATUS_EXECUTION_FAILED", DeviceFault),
        ("CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER", DeviceFault),
        ("CUDNN_STATUS_EXECUTION_FAILED_CUBLAS", DeviceFault),
        ("CUDNN_STATUS_EXECUTION_FAILED_CUDART", DeviceFault),
        ("CUDA_ERROR_OUT_OF_MEMORY", OutOfMemory),
        ("CUBLAS_STATUS_ALLOC_FAILED", OutOfMemory),
        ("CUDNN_STATUS_ALLOC_FAILED", OutOfMemory),
        ("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", OutOfMemory),
    ]
};

/// What `error` means, if a device caused it. candle boxes the errors of driver and libraries, so that only their names tell; they
/// stand in what [`Debug`] writes, however deep the error lies.
pub(crate) fn kind(error: &impl Debug) -> Option<ErrorKind> {
    let text = format!("{error:?}");
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    ERRORS.iter().find(|(name, _)| words.contains(name)).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    /// As cudarc and candle print and box them.
    #[derive(Debug, thiserror::Error)]
    #[error("{self:?}")]
    struct DriverError(Name, &'static str);

    /// Prints as an enum of C does.
    struct Name(&'static str);

    impl std::fmt::Debug for Name {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    fn driver(name: &'static str) -> candle_core::Error {
        candle_core::Error::Cuda(Box::new(DriverError(Name(name), "as the driver describes it")))
    }

    #[test]
    fn a_device_that_is_out_of_memory_and_one_that_failed_are_told_apart_however_deep_the_error_lies() {
        for (name, expected) in ERRORS {
            let errors = [
                Error::Tensor(driver(name)),
                Error::Tensor(driver(name).context("the third block")),
                Error::Tensor(candle_core::Error::wrap(driver(name))),
                Error::Tensor(candle_core::Error::msg(driver(name))),
            ];
            for error in errors {
                assert_eq!(error.kind(), expected, "{error}");
            }
        }
    }

    #[test]
    fn an_error_that_leaves_the_device_usable_is_neither() {
        for name in ["CUDA_ERROR_INVALID_VALUE", "CUDA_ERROR_ASSERTION", "CUDA_ERROR_NO_BINARY_FOR_GPU"] {
            assert_eq!(Error::Tensor(driver(name)).kind(), ErrorKind::Bug, "{name}");
        }
        let memory = Error::OutOfMemory { needed: 2, limit: 1, images: 1 };
        assert_eq!(memory.kind(), ErrorKind::OutOfMemory);
    }
}
