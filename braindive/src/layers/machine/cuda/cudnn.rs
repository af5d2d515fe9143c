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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// Whether cuDNN computed it: all images at once, or one by one where the workspace of the fast algorithms, which grows with their number,
/// would be too large.
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
    let together = Problem::of(c)?;
    let (problem, plan) = match library.plan(together)? {
        Some(plan) => (together, plan),
        None => match library.plan(together.of_one_image())? {
            Some(plan) => (together.of_one_image(), plan),
            None => return Ok(false),
        },
    };
    // SAFETY: the workspace is not read before it is written, by cuDNN. When this returns it is freed in the stream's order.
    let workspace = unsafe { device.alloc::<u8>(plan.workspace_bytes.max(1)) }?;
    let workspace = workspace.device_ptr(&stream).0 as *mut c_void;
    let weight = cuda.address(c.weight)? as *mut c_void;
    let (input, output) = (cuda.address(c.input)?, cuda.address(c.output)?);
    for image in 0..together.images() / problem.images() {
        let at = |start: u64, extents| (start + image as u64 * problem.bytes(extents)) as *mut c_void;
        let (input, output) = (at(input, problem.input), at(output, problem.output));
        // SAFETY: the tensors have the extents of the plan, which was made from them.
        match unsafe { plan.run(library.handle, [input, weight, output], workspace) } {
            Ok(()) => {}
            Err(error) if refuses(error) => {
                library.plans.insert(problem, None);
                return Ok(false);
            }
            Err(error) => return Err(Error::wrap(error)),
        }
    }
    Ok(true)
}

impl Library {
    /// The plan of a problem; `None` where cuDNN has none whose workspace fits.
    fn plan(&mut self, problem: Problem) -> Result<Option<Plan>> {
        if let Some(plan) = self.plans.get(&problem) {
            return Ok(*plan);
        }
        // SAFETY: the handle lives.
        let plan = match unsafe { Plan::make(self.handle, &problem) } {
            Err(error) if refuses(error) => None,
            made => made.map_err(Error::wrap)?,
        };
        self.plans.insert(problem, plan);
        Ok(plan)
    }
}

/// Whether cuDNN says that it does not do what it was asked for (`CUDNN_STATUS_BAD_PARAM…`, `CUDNN_STATUS_NOT_SUPPORTED…`): it takes no tensor
/// of 2³¹ elements, for one.
fn refuses(CudnnError(status): CudnnError) -> bool {
    matches!(status as u32 / 1000, 2 | 3)
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

    fn images(&self) -> c_int {
        self.input[0]
    }

    fn of_one_image(self) -> Self {
        let one = |[_, channels, height, width]: [c_int; 4]| [1, channels, height, width];
        Self { input: one(self.input), output: one(self.output), ..self }
    }

    /// Of a tensor of these extents.
    fn bytes(&self, extents: [c_int; 4]) -> u64 {
        extents.map(|extent| u64::from(extent.unsigned_abs())).iter().product::<u64>()
            * self.dtype.size_in_bytes() as u64
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

/// An algorithm that cuDNN proposes, and that gives the same result every time.
struct Proposal<A> {
    algorithm: A,
    /// What the algorithm computes with: the workspace is that of this one.
    math: sys::cudnnMathType_t,
    workspace_bytes: usize,
}

/// Of proposals, the fastest first, the first one if it fits; of those for a single image, the first one that fits.
fn choose<A>(
    proposals: impl Iterator<Item = Proposal<A>>,
    images: c_int,
    algorithm: impl Fn(A) -> Algorithm,
) -> Option<Proposal<Algorithm>> {
    let mut proposals = proposals.take(if images == 1 { PROPOSALS } else { 1 });
    let Proposal { algorithm: found, math, workspace_bytes } =
        proposals.find(|proposal| proposal.workspace_bytes <= WORKSPACE_BYTES)?;
    Some(Proposal { algorithm: algorithm(found), math, workspace_bytes })
}

/// As many proposals as cuDNN has algorithms.
const PROPOSALS: usize = 10;

macro_rules! proposals {
    ($get:path, $handle:expr, [$($descriptor:expr),+], $empty:ty) => {{
        let (mut found, mut count) = ([const { std::mem::MaybeUninit::<$empty>::uninit() }; PROPOSALS], 0);
        $get($handle, $($descriptor),+, PROPOSALS as c_int, &raw mut count, found.as_mut_ptr().cast())?;
        found.into_iter().take(count as usize).filter_map(|found| {
            // As a number: a later release may have a status that is none of the enumeration's.
            let status = (&raw const (*found.as_ptr()).status).cast::<u32>().read();
            let found = (status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS as u32).then(|| found.assume_init())?;
            (found.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC).then_some(Proposal {
                algorithm: found.algo,
                math: found.mathType,
                workspace_bytes: found.memory,
            })
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
                choose(found, p.images(), Algorithm::Adjoint)
            } else {
                let found = proposals!(
                    result::get_convolution_forward_algorithm,
                    handle,
                    [input, weight, convolution, output],
                    sys::cudnnConvolutionFwdAlgoPerf_t
                );
                choose(found, p.images(), Algorithm::Forward)
            }
        };
        // f32 keeps what was asked for: the default of newer cards allows their shorter type.
        if let Some(chosen) = chosen.as_ref().filter(|_| p.dtype != DType::F32) {
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

    /// # Safety
    /// The handle lives, its device is current, and input, weight and output are there, with the plan's extents.
    unsafe fn run(
        &self,
        handle: sys::cudnnHandle_t,
        [input, weight, output]: [*mut c_void; 3],
        workspace: *mut c_void,
    ) -> std::result::Result<(), CudnnError> {
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (one, zero): (*const c_void, *const c_void) = ((&raw const one).cast(), (&raw const zero).cast());
        // SAFETY: as the caller says.
        unsafe {
            match self.algorithm {
                Algorithm::Forward(algorithm) => result::convolution_forward(
                    handle,
                    one,
                    self.input,
                    input,
                    self.weight,
                    weight,
                    self.convolution,
                    algorithm,
                    workspace,
                    self.workspace_bytes,
                    zero,
                    self.output,
                    output,
                ),
                Algorithm::Adjoint(algorithm) => result::convolution_backward_data(
                    handle,
                    one,
                    self.weight,
                    weight,
                    self.output,
                    output,
                    self.convolution,
                    algorithm,
                    workspace,
                    self.workspace_bytes,
                    zero,
                    self.input,
                    input,
                ),
            }
        }
    }
}
