//! Kernels launched on the host: the same source compiled as C++, its threads run one after the other. For tests where there
//! is no GPU. `kernels/emulation/` says how.

use crate::{Argument, Element, Grid};
use std::ffi::{CStr, CString, c_char};

/// The largest number of blocks along x, y and z.
const MOST_BLOCKS: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

/// Bytes of shared memory that a kernel may declare.
const MOST_SHARED_BYTES: u64 = 48 << 10;

/// Why a launch was refused, or what went wrong in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmulationError {
    #[error("there is no kernel {kernel:?} for elements {element:?}")]
    NoSuchKernel { kernel: String, element: Element },
    #[error("kernel {kernel:?} takes {expected} arguments and was given {given}")]
    WrongNumberOfArguments { kernel: String, expected: usize, given: usize },
    /// `index` counts from 0.
    #[error("argument {index} of kernel {kernel:?} is of kind {expected:?} and was given as {given:?}")]
    WrongArgument { kernel: String, index: usize, expected: String, given: String },
    #[error("kernel {kernel:?} was given blocks of {threads} threads, expected a multiple of 32 from 32 to 1024")]
    WrongThreads { kernel: String, threads: u32 },
    #[error(
        "kernel {kernel:?} was given a grid of {blocks:?} blocks, expected at least one and at most {MOST_BLOCKS:?}"
    )]
    WrongBlocks { kernel: String, blocks: [u32; 3] },
    /// Of the memory that the kernel declares only those bytes count that its first block used.
    #[error(
        "a block of kernel {kernel:?} uses at least {bytes} bytes of shared memory, and may declare {MOST_SHARED_BYTES}"
    )]
    TooMuchShared { kernel: String, bytes: u64 },
    /// Threads wait for others that ended or wait elsewhere, or the kernel did something else that is undefined.
    #[error("block {block:?} of kernel {kernel:?} cannot go on: {reason}")]
    Stuck { kernel: String, block: [u32; 3], reason: String },
}

/// Runs a kernel to its end. Launches from several threads wait for each other.
///
/// # Errors
/// The launch does not fit the kernel or would be refused by a device, or a block got stuck; then others may have run.
///
/// # Safety
/// Pointers are addresses of this process, and the kernel reads and writes behind them what it was written to.
pub unsafe fn launch(element: Element, kernel: &str, grid: Grid, arguments: &[Argument]) -> Result<(), EmulationError> {
    let (module, name) = (module(element), || kernel.to_owned());
    let found = CString::new(kernel).ok().map(|kernel| unsafe { emulation_find(module, kernel.as_ptr()) });
    let Some(found) = found.and_then(|found| unsafe { found.as_ref() }) else {
        return Err(EmulationError::NoSuchKernel { kernel: name(), element });
    };
    let parameters = unsafe { CStr::from_ptr(found.parameters) }.to_bytes();
    if parameters.len() != arguments.len() {
        let (expected, given) = (parameters.len(), arguments.len());
        return Err(EmulationError::WrongNumberOfArguments { kernel: name(), expected, given });
    }
    let mut bits = Vec::with_capacity(arguments.len());
    for (index, (&argument, &parameter)) in arguments.iter().zip(parameters).enumerate() {
        let (letter, value) = match argument {
            Argument::Pointer(address) => (b'p', address),
            Argument::Int(value) => (b'i', u64::from(value.cast_unsigned())),
            Argument::Long(value) => (b'l', value.cast_unsigned()),
            Argument::Float(value) => (b'f', u64::from(value.to_bits())),
        };
        if letter != parameter {
            let (expected, given) = (kind(parameter).to_owned(), format!("{argument:?}"));
            return Err(EmulationError::WrongArgument { kernel: name(), index, expected, given });
        }
        bits.push(value);
    }
    let Grid { blocks, threads } = grid;
    if !(32..=1024).contains(&threads) || !threads.is_multiple_of(32) {
        return Err(EmulationError::WrongThreads { kernel: name(), threads });
    }
    if blocks.iter().zip(MOST_BLOCKS).any(|(&blocks, most)| blocks == 0 || blocks > most) {
        return Err(EmulationError::WrongBlocks { kernel: name(), blocks });
    }
    let mut launch =
        Launch { kernel: found, module, blocks, threads, arguments: bits.as_ptr(), block: [0; 3], message: [0; 256] };
    let Ok(declared) = u64::try_from(unsafe { emulation_run(&raw mut launch) }) else {
        let reason = unsafe { CStr::from_ptr(launch.message.as_ptr()) }.to_string_lossy().into_owned();
        return Err(EmulationError::Stuck { kernel: name(), block: launch.block, reason });
    };
    match declared {
        0..=MOST_SHARED_BYTES => Ok(()),
        bytes => Err(EmulationError::TooMuchShared { kernel: name(), bytes }),
    }
}

fn module(element: Element) -> *const Module {
    match element {
        Element::F32 => &raw const emulation_f32,
        Element::F16 => &raw const emulation_f16,
        Element::Bf16 => &raw const emulation_bf16,
    }
}

fn kind(letter: u8) -> &'static str {
    match letter {
        b'p' => "Pointer",
        b'i' => "Int",
        b'l' => "Long",
        _ => "Float",
    }
}

/// As in `kernels/emulation/launch.hpp`.
#[repr(C)]
struct Kernel {
    name: *const c_char,
    parameters: *const c_char,
    call: *const (),
    next: *const Kernel,
}

/// Only its address is used here.
#[repr(C)]
struct Module {
    kernels: *const (),
    shared: *const (),
    shared_end: *const (),
}

/// As in `kernels/emulation/launch.hpp`.
#[repr(C)]
struct Launch {
    kernel: *const Kernel,
    module: *const Module,
    blocks: [u32; 3],
    threads: u32,
    arguments: *const u64,
    block: [u32; 3],
    message: [c_char; 256],
}

unsafe extern "C" {
    static emulation_f32: Module;
    static emulation_f16: Module;
    static emulation_bf16: Module;
    fn emulation_find(module: *const Module, name: *const c_char) -> *const Kernel;
    fn emulation_run(launch: *mut Launch) -> i64;
}
