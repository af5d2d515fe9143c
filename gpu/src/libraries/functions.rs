//! Every function of NVIDIA's libraries that this program may call: those that cudarc's layers above its bindings call, and a few more.
//!
//! One that is missing here is an undefined symbol when a program with the feature `libraries` is linked: add it in its place.

pub(super) mod driver {
    crate::libraries::trampoline::functions! { "the NVIDIA driver":
        cuCtxDestroy_v2 cuCtxGetCacheConfig cuCtxGetCurrent cuCtxGetLimit cuCtxGetStreamPriorityRange
        cuCtxSetCacheConfig cuCtxSetCurrent cuCtxSetLimit cuCtxSynchronize cuDestroyExternalMemory cuDeviceGet
        cuDeviceGetAttribute cuDeviceGetCount cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceGetName
        cuDeviceGetUuid cuDeviceGetUuid_v2 cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain cuDeviceSetMemPool
        cuDeviceTotalMem_v2 cuDriverGetVersion cuEventCreate cuEventDestroy_v2 cuEventElapsedTime cuEventQuery
        cuEventRecord cuEventSynchronize cuExternalMemoryGetMappedBuffer cuFuncGetAttribute cuFuncSetAttribute
        cuFuncSetCacheConfig cuGetErrorName cuGetErrorString cuGraphClone cuGraphDestroy cuGraphExecDestroy
        cuGraphInstantiateWithFlags cuGraphLaunch cuGraphUpload cuImportExternalMemory cuInit cuLaunchCooperativeKernel
        cuLaunchHostFunc cuLaunchKernel cuMemAllocAsync cuMemAllocFromPoolAsync cuMemAllocManaged cuMemAlloc_v2
        cuMemFreeAsync cuMemFreeHost cuMemFree_v2 cuMemGetInfo_v2 cuMemHostAlloc cuMemPoolCreate cuMemPoolDestroy
        cuMemPoolGetAttribute cuMemPoolSetAttribute cuMemPoolTrimTo cuMemcpyDtoDAsync_v2 cuMemcpyDtoD_v2
        cuMemcpyDtoHAsync_v2 cuMemcpyDtoH_v2 cuMemcpyHtoDAsync_v2 cuMemcpyHtoD_v2 cuMemcpyPeerAsync cuMemsetD8Async
        cuMemsetD8_v2 cuModuleGetFunction cuModuleGetGlobal_v2 cuModuleLoad cuModuleLoadData cuModuleUnload
        cuOccupancyAvailableDynamicSMemPerBlock cuOccupancyMaxActiveBlocksPerMultiprocessor
        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxActiveClusters
        cuOccupancyMaxPotentialBlockSize cuOccupancyMaxPotentialBlockSizeWithFlags cuOccupancyMaxPotentialClusterSize
        cuProfilerStart cuProfilerStop cuStreamAttachMemAsync cuStreamBeginCapture_v2 cuStreamCreate
        cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamEndCapture cuStreamIsCapturing cuStreamSynchronize
        cuStreamWaitEvent
        ; newer:
        cuCtxCreate_v3 cuCtxCreate_v4 cuCtxSetFlags cuEventElapsedTime_v2 cuMemAdvise_v2 cuMemPrefetchAsync_v2
    }
}

pub(super) mod cublas {
    crate::libraries::trampoline::functions! { "cuBLAS":
        cublasCreate_v2 cublasDasum_v2 cublasDestroy_v2 cublasDgemmStridedBatched cublasDgemm_v2 cublasDgemv_v2
        cublasGemmEx cublasGemmStridedBatchedEx cublasGetMathMode cublasGetPointerMode_v2 cublasSasum_v2
        cublasSetMathMode cublasSetPointerMode_v2 cublasSetStream_v2 cublasSetWorkspace_v2 cublasSgemmStridedBatched
        cublasSgemm_v2 cublasSgemv_v2
        ; newer:
        cublasGemmGroupedBatchedEx
    }
}

pub(super) mod cublas_lt {
    crate::libraries::trampoline::functions! { "cuBLASLt":
        cublasLtCreate cublasLtDestroy cublasLtLoggerOpenFile cublasLtLoggerSetLevel cublasLtMatmul
        cublasLtMatmulAlgoGetHeuristic cublasLtMatmulDescCreate cublasLtMatmulDescDestroy cublasLtMatmulDescSetAttribute
        cublasLtMatmulPreferenceCreate cublasLtMatmulPreferenceDestroy cublasLtMatmulPreferenceSetAttribute
        cublasLtMatrixLayoutCreate cublasLtMatrixLayoutDestroy cublasLtMatrixLayoutSetAttribute
    }
}

pub(super) mod curand {
    crate::libraries::trampoline::functions! { "cuRAND":
        curandCreateGenerator curandDestroyGenerator curandGenerate curandGenerateLogNormal
        curandGenerateLogNormalDouble curandGenerateLongLong curandGenerateNormal curandGenerateNormalDouble
        curandGeneratePoisson curandGenerateUniform curandGenerateUniformDouble curandSetGeneratorOffset
        curandSetPseudoRandomGeneratorSeed curandSetStream
    }
}

pub(super) mod nvrtc {
    crate::libraries::trampoline::functions! { "NVRTC":
        nvrtcCompileProgram nvrtcCreateProgram nvrtcDestroyProgram nvrtcGetPTX nvrtcGetPTXSize nvrtcGetProgramLog
        nvrtcGetProgramLogSize
    }
}

pub(super) mod cudnn {
    crate::libraries::trampoline::functions! { "cuDNN":
        cudnnActivationForward cudnnConvolutionBackwardData cudnnConvolutionBackwardFilter
        cudnnConvolutionBiasActivationForward cudnnConvolutionForward cudnnCreate cudnnCreateActivationDescriptor
        cudnnCreateConvolutionDescriptor cudnnCreateFilterDescriptor cudnnCreatePoolingDescriptor
        cudnnCreateReduceTensorDescriptor cudnnCreateTensorDescriptor cudnnDestroy cudnnDestroyConvolutionDescriptor
        cudnnDestroyFilterDescriptor cudnnDestroyReduceTensorDescriptor cudnnDestroyTensorDescriptor
        cudnnFindConvolutionBackwardDataAlgorithmEx cudnnFindConvolutionForwardAlgorithmEx
        cudnnGetConvolutionBackwardDataAlgorithmMaxCount cudnnGetConvolutionBackwardDataAlgorithm_v7
        cudnnGetConvolutionBackwardDataWorkspaceSize cudnnGetConvolutionBackwardFilterAlgorithm_v7
        cudnnGetConvolutionBackwardFilterWorkspaceSize cudnnGetConvolutionForwardAlgorithmMaxCount
        cudnnGetConvolutionForwardAlgorithm_v7 cudnnGetConvolutionForwardWorkspaceSize cudnnGetConvolutionMathType
        cudnnGetCudartVersion cudnnGetErrorString cudnnGetReductionIndicesSize cudnnGetReductionWorkspaceSize
        cudnnGetStream cudnnGetVersion cudnnPoolingForward cudnnReduceTensor cudnnSetActivationDescriptor
        cudnnSetConvolution2dDescriptor cudnnSetConvolutionGroupCount cudnnSetConvolutionMathType
        cudnnSetConvolutionNdDescriptor cudnnSetConvolutionReorderType cudnnSetFilter4dDescriptor
        cudnnSetFilterNdDescriptor cudnnSetPoolingNdDescriptor cudnnSetReduceTensorDescriptor cudnnSetStream
        cudnnSetTensor4dDescriptor cudnnSetTensor4dDescriptorEx cudnnSetTensorNdDescriptor cudnnSoftmaxForward
        ; newer:
        cudnnAdvVersionCheck cudnnCnnVersionCheck cudnnOpsVersionCheck
    }
}

/// candle's kernels for quantised weights, which nothing here calls: defined, so that the linker leaves out candle's, and with them what
/// they need of the CUDA runtime. Never loaded.
pub(super) mod quantised {
    crate::libraries::trampoline::functions! { "candle's library of quantised kernels":
        launch_mmq_gguf_q2_k launch_mmq_gguf_q3_k launch_mmq_gguf_q4_0 launch_mmq_gguf_q4_1 launch_mmq_gguf_q4_k
        launch_mmq_gguf_q5_0 launch_mmq_gguf_q5_1 launch_mmq_gguf_q5_k launch_mmq_gguf_q6_k launch_mmq_gguf_q8_0
        launch_mmq_quantize_q8_1_D2S6 launch_mmq_quantize_q8_1_D4 launch_mmq_quantize_q8_1_DS4
        launch_mmvq_gguf_q2_k_bf16_plain launch_mmvq_gguf_q2_k_f16_plain launch_mmvq_gguf_q2_k_f32_plain
        launch_mmvq_gguf_q3_k_bf16_plain launch_mmvq_gguf_q3_k_f16_plain launch_mmvq_gguf_q3_k_f32_plain
        launch_mmvq_gguf_q4_0_bf16_plain launch_mmvq_gguf_q4_0_f16_plain launch_mmvq_gguf_q4_0_f32_plain
        launch_mmvq_gguf_q4_1_bf16_plain launch_mmvq_gguf_q4_1_f16_plain launch_mmvq_gguf_q4_1_f32_plain
        launch_mmvq_gguf_q4_k_bf16_plain launch_mmvq_gguf_q4_k_f16_plain launch_mmvq_gguf_q4_k_f32_plain
        launch_mmvq_gguf_q5_0_bf16_plain launch_mmvq_gguf_q5_0_f16_plain launch_mmvq_gguf_q5_0_f32_plain
        launch_mmvq_gguf_q5_1_bf16_plain launch_mmvq_gguf_q5_1_f16_plain launch_mmvq_gguf_q5_1_f32_plain
        launch_mmvq_gguf_q5_k_bf16_plain launch_mmvq_gguf_q5_k_f16_plain launch_mmvq_gguf_q5_k_f32_plain
        launch_mmvq_gguf_q6_k_bf16_plain launch_mmvq_gguf_q6_k_f16_plain launch_mmvq_gguf_q6_k_f32_plain
        launch_mmvq_gguf_q8_0_bf16_plain launch_mmvq_gguf_q8_0_f16_plain launch_mmvq_gguf_q8_0_f32_plain
        launch_mmvq_gguf_quantize_q8_1_bf16 launch_mmvq_gguf_quantize_q8_1_f16 launch_mmvq_gguf_quantize_q8_1_f32
        moe_gemm_gguf moe_gemm_gguf_prefill moe_gemm_wmma
    }
}
