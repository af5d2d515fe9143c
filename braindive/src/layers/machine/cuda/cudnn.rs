//! Convolutions by cuDNN, if it is installed, with sums in f32, and by algorithms that give the same result every time.

use super::Cuda;
use crate::layers::machine::{Convolution, Machine};
use candle_core::cuda_backend::DeviceId;
use candle_core::cuda_backend::cudarc::cudnn::{CudnnError, result, sys};
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{DType, Error, Result};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{c_int, c_void};
use std::sync::{LazyLock, Mutex, PoisonError};

/// The most that an algorithm may take beside its tensors.
const WORKSPACE_BYTES: usize = 256 << 20;

/// One handle per device, which one thread uses at a time, and what was planned on it.
static LIBRARIES: LazyLock<Mutex<HashMap<DeviceId, Library>>> = LazyLock::new(Mutex::default);

struct Library {
    handle: sys::cudnnHandle_t,
    /// `None`: no algorithm fits.
    plans: HashMap<Problem, Option<Plan>>,
}

// SAFETY: handle and descriptors are bound to no thread, and the lock gives them to one at a time.
unsafe impl Send for Library {}

/// What a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Problem {
    dtype: DType,
    input: [c_int; 4],
    output: [c_int; 4],
    kernel: c_int,
    stride: c_int,
    padding: c_int,
    adjoint: bool,
}

/// Descriptors, kept as long as the process lives, and the algorithm that was chosen.
#[derive(Clone, Copy)]
struct Plan {
    input: sys::cudnnTensorDescriptor_t,
    output: sys::cudnnTensorDescriptor_t,
    weight: sys::cudnnFilterDescriptor_t,
    convolution: sys::cudnnConvolutionDescriptor_t,
    algorithm: Algorithm,
    workspace_bytes: usize,
}

#[derive(Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Adjoint(sys::cudnnConvolutionBwdDataAlgo_t),
}

/// Whether cuDNN computed it.
pub(super) fn convolve(cuda: &Cuda<'_>, c: &Convolution<'_>) -> Result<bool> {
    if gpu::libraries::cudnn().is_none() {
        return Ok(false);
    }
    let device = cuda.device;
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().map_err(Error::wrap)?;
    let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
    let library = match libraries.entry(device.id()) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => {
            let handle = result::create_handle().map_err(Error::wrap)?;
            // SAFETY: the handle was just created, and the device keeps its stream.
            unsafe { result::set_stream(handle, stream.cu_stream().cast()) }.map_err(Error::wrap)?;
            place.insert(Library { handle, plans: HashMap::new() })
        }
    };
    let problem = Problem::of(c)?;
    let plan = match library.plans.get(&problem) {
        Some(plan) => *plan,
        None => {
            // SAFETY: the handle lives.
            let plan = unsafe { Plan::make(library.handle, &problem) }.map_err(Error::wrap)?;
            library.plans.insert(problem, plan);
            plan
        }
    };
    let Some(plan) = plan else { return Ok(false) };
    // SAFETY: the workspace is not read before it is written, by cuDNN.
    let workspace = unsafe { device.alloc::<u8>(plan.workspace_bytes.max(1)) }?;
    let workspace = workspace.device_ptr(&stream).0 as *mut c_void;
    let address = |tensor| Ok::<_, Error>(cuda.address(tensor)? as *mut c_void);
    let (input, weight, output) = (address(c.input)?, address(c.weight)?, address(c.output)?);
    let (one, zero) = (1.0_f32, 0.0_f32);
    let (one, zero): (*const c_void, *const c_void) = ((&raw const one).cast(), (&raw const zero).cast());
    // SAFETY: the tensors have the extents of the plan, which was made from them. What is freed when this returns is freed in the
    // stream's order.
    unsafe {
        match plan.algorithm {
            Algorithm::Forward(algorithm) => result::convolution_forward(
                library.handle,
                one,
                plan.input,
                input,
                plan.weight,
                weight,
                plan.convolution,
                algorithm,
                workspace,
                plan.workspace_bytes,
                zero,
                plan.output,
                output,
            ),
            Algorithm::Adjoint(algorithm) => result::convolution_backward_data(
                library.handle,
                one,
                plan.weight,
                weight,
                plan.output,
                output,
                plan.convolution,
                algorithm,
                workspace,
                plan.workspace_bytes,
                zero,
                plan.input,
                input,
            ),
        }
    }
    .map_err(Error::wrap)?;
    Ok(true)
}

impl Problem {
    fn of(c: &Convolution<'_>) -> Result<Self> {
        let extents = |tensor: &candle_core::Tensor| {
            let (n, channels, height, width) = tensor.dims4()?;
            Ok::<_, Error>([n as c_int, channels as c_int, height as c_int, width as c_int])
        };
        Ok(Self {
            dtype: c.input.dtype(),
            input: extents(c.input)?,
            output: extents(c.output)?,
            kernel: c.weight.dim(3)? as c_int,
            stride: c.stride as c_int,
            padding: c.padding as c_int,
            adjoint: c.adjoint,
        })
    }

    fn data_type(&self) -> sys::cudnnDataType_t {
        match self.dtype {
            DType::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
            DType::BF16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            _ => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        }
    }

    /// Half types on tensor cores; f32 in f32, never in the shorter type of newer cards.
    fn math(&self) -> sys::cudnnMathType_t {
        match self.dtype {
            DType::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
            _ => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        }
    }
}

/// An algorithm that cuDNN proposes.
struct Proposal<A> {
    algorithm: A,
    /// What the algorithm computes with: the workspace is that of this one.
    math: sys::cudnnMathType_t,
    usable: bool,
    workspace_bytes: usize,
}

/// Of proposals, the fastest first, the first one that fits.
fn first_that_fits<A>(
    mut proposals: impl Iterator<Item = Proposal<A>>,
    algorithm: impl Fn(A) -> Algorithm,
) -> Option<Proposal<Algorithm>> {
    let found = proposals.find(|proposal| proposal.usable && proposal.workspace_bytes <= WORKSPACE_BYTES)?;
    let Proposal { math, usable, workspace_bytes, .. } = found;
    Some(Proposal { algorithm: algorithm(found.algorithm), math, usable, workspace_bytes })
}

/// As many proposals as cuDNN has algorithms.
const PROPOSALS: usize = 10;

macro_rules! proposals {
    ($get:path, $handle:expr, [$($descriptor:expr),+], $empty:ty) => {{
        let (mut found, mut count) = ([const { std::mem::MaybeUninit::<$empty>::uninit() }; PROPOSALS], 0);
        $get($handle, $($descriptor),+, PROPOSALS as c_int, &raw mut count, found.as_mut_ptr().cast())?;
        found.into_iter().take(count as usize).map(|found| {
            let found = found.assume_init();
            Proposal {
                algorithm: found.algo,
                math: found.mathType,
                usable: found.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                    && found.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC,
                workspace_bytes: found.memory,
            }
        })
    }};
}

impl Plan {
    /// # Safety
    /// The handle lives, and its device is current.
    unsafe fn make(handle: sys::cudnnHandle_t, p: &Problem) -> std::result::Result<Option<Self>, CudnnError> {
        let layout = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW;
        let (input, output) = (result::create_tensor_descriptor()?, result::create_tensor_descriptor()?);
        let (weight, convolution) = (result::create_filter_descriptor()?, result::create_convolution_descriptor()?);
        let filters = [p.output[1], p.input[1], p.kernel, p.kernel];
        // SAFETY: the descriptors were just created; as many proposals are read as were written.
        let chosen = unsafe {
            result::set_tensor4d_descriptor(input, layout, p.data_type(), p.input)?;
            result::set_tensor4d_descriptor(output, layout, p.data_type(), p.output)?;
            result::set_filter4d_descriptor(weight, p.data_type(), layout, filters)?;
            let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
            let sums = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
            let (pad, stride) = (p.padding, p.stride);
            result::set_convolution2d_descriptor(convolution, pad, pad, stride, stride, 1, 1, mode, sums)?;
            result::set_convolution_math_type(convolution, p.math())?;
            if p.adjoint {
                let found = proposals!(
                    result::get_convolution_backward_data_algorithm,
                    handle,
                    [weight, output, convolution, input],
                    sys::cudnnConvolutionBwdDataAlgoPerf_t
                );
                first_that_fits(found, Algorithm::Adjoint)
            } else {
                let found = proposals!(
                    result::get_convolution_forward_algorithm,
                    handle,
                    [input, weight, convolution, output],
                    sys::cudnnConvolutionFwdAlgoPerf_t
                );
                first_that_fits(found, Algorithm::Forward)
            }
        };
        if let Some(chosen) = &chosen {
            // SAFETY: the descriptor lives.
            unsafe { result::set_convolution_math_type(convolution, chosen.math) }?;
        }
        Ok(chosen.map(|Proposal { algorithm, workspace_bytes, .. }| Self {
            input,
            output,
            weight,
            convolution,
            algorithm,
            workspace_bytes,
        }))
    }
}
