//! Why a GPU cannot be used.

use super::{Card, Library};
use crate::Needs;

/// Why a GPU cannot be used: one line, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LibraryError {
    #[error(
        "no NVIDIA driver on this node: libcuda.so.1 was not found; run on a node with a GPU, and a container with `--nv` or `--gpus all`"
    )]
    NoDriver,
    #[error("the NVIDIA driver{} is too old: it serves CUDA {}, and this build needs {}; run on a node with a newer driver, or build with an older nvcc",
        .release.as_ref().map_or(String::new(), |release| format!(" {release}")), version(*.found), with_driver(*.needed))]
    OldDriver {
        /// As the kernel's module tells it, if it does.
        release: Option<String>,
        found: (u32, u32),
        needed: (u32, u32),
    },
    #[error("the NVIDIA driver does not start: cuInit says {}{}", name_of(*.code), advice_on(*.code))]
    Start { code: i32 },
    #[error("the NVIDIA driver fails: {call} says {}{}", name_of(*.code), advice_on(*.code))]
    Driver { call: &'static str, code: i32 },
    #[error("{library} was not found (tried {}): load your cluster's module (`module load cuda/12`), or `pip install {}` and put its folder {} on LD_LIBRARY_PATH",
        .library.names().join(", "), .library.wheel(), .library.wheel_folder())]
    Missing { library: Library },
    #[error("{library} was found as {file} and does not load: {reason}")]
    Broken { library: Library, file: String, reason: String },
    #[error(
        "{file} has no `{symbol}`: it is of a version that does not fit this build; put {library} of the CUDA that it was built with first on LD_LIBRARY_PATH"
    )]
    Symbol { library: Library, file: String, symbol: &'static str },
    #[error("there is no cuda:{ordinal}: this process sees {} ({}); CUDA_VISIBLE_DEVICES and Slurm's `--gpus` choose them", count(*.seen), .names)]
    NoSuchCard { ordinal: u32, seen: usize, names: String },
    #[error(
        "cuda:{} is a {} of compute capability {}, and this build's kernels need {}{}; a build with CUDA_COMPUTE_CAP=70 runs on V100 and every newer card",
        .card.ordinal, .card.name, version(.card.capability), version(.kernels.capability), if .kernels.exactly { " alone" } else { " or newer" }
    )]
    OtherCard { card: Box<Card>, kernels: Needs },
    #[error(
        "this build's kernels are empty, as a stand-in for nvcc makes them: `cargo clean -p candle-kernels -p gpu`, and build with nvcc"
    )]
    NoKernels,
    #[error(
        "{file} serves no card of compute capability {} (cuda:{}, {}): CUDA 13 and cuDNN 9.11 dropped Volta; load older ones (`module load cuda/12`)",
        version(.card.capability), .card.ordinal, .card.name
    )]
    NewLibrary { file: String, card: Box<Card> },
    #[error("{file} is of CUDA {made_for}, and the driver serves CUDA {}: load one that is not newer (`module load cuda/{}`)", version(*.served), .served.0)]
    NewerThanDriver { file: String, made_for: u32, served: (u32, u32) },
    #[error("{file} is not cuDNN 9, which this build is for")]
    OtherCudnn { file: String },
}

fn version((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

fn with_driver(cuda: (u32, u32)) -> String {
    let driver = driver_of(cuda).map_or(String::new(), |release| format!(" (driver {release} or newer)"));
    format!("{}{driver}", version(cuda))
}

fn count(cards: usize) -> String {
    if cards == 1 { "one GPU".to_owned() } else { format!("{cards} GPUs") }
}

/// The first driver that serves a CUDA of a version, as its release notes say.
fn driver_of(cuda: (u32, u32)) -> Option<u32> {
    Some(match cuda {
        (11, 8) => 520,
        (12, 0) => 525,
        (12, 1) => 530,
        (12, 2) => 535,
        (12, 3) => 545,
        (12, 4) => 550,
        (12, 5) => 555,
        (12, 6) => 560,
        (12, 8) => 570,
        (12, 9) => 575,
        (13, 0) => 580,
        _ => return None,
    })
}

/// `CUresult` by name, of those that a start can meet.
fn name_of(code: i32) -> String {
    let name = match code {
        2 => "CUDA_ERROR_OUT_OF_MEMORY",
        3 => "CUDA_ERROR_NOT_INITIALIZED",
        34 => "CUDA_ERROR_STUB_LIBRARY",
        46 => "CUDA_ERROR_DEVICE_UNAVAILABLE",
        100 => "CUDA_ERROR_NO_DEVICE",
        101 => "CUDA_ERROR_INVALID_DEVICE",
        304 => "CUDA_ERROR_OPERATING_SYSTEM",
        802 => "CUDA_ERROR_SYSTEM_NOT_READY",
        803 => "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        804 => "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        805 => "CUDA_ERROR_MPS_CONNECTION_FAILED",
        807 => "CUDA_ERROR_MPS_SERVER_NOT_READY",
        999 => "CUDA_ERROR_UNKNOWN",
        _ => return format!("CUresult {code}"),
    };
    format!("{name} ({code})")
}

fn advice_on(code: i32) -> &'static str {
    match code {
        34 => ": the libcuda found is the toolkit's stub for linking; take its folder `stubs` off LD_LIBRARY_PATH",
        46 => ": another process holds the card exclusively; ask Slurm for one of your own (`--gpus=1`)",
        100 => ": this process sees no GPU; ask Slurm for one (`--gpus=1`), and look at CUDA_VISIBLE_DEVICES",
        304 => ": /dev/nvidia* may be missing or closed to this job or container",
        802 => ": the node's fabric manager is not up; tell its administrators",
        803 => {
            ": library and kernel module are of different drivers, as after an update without a restart; tell the node's administrators"
        }
        804 => ": a package of forward compatibility is on LD_LIBRARY_PATH, and this card takes none; take it off",
        805 | 807 => ": the node shares its cards by MPS, whose server does not answer; tell its administrators",
        999 => ": `nvidia-smi` on this node may tell more",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_too_old_is_told_with_both_numbers() {
        let error = LibraryError::OldDriver { release: Some("470.57.02".into()), found: (11, 4), needed: (12, 4) };
        assert_eq!(
            error.to_string(),
            "the NVIDIA driver 470.57.02 is too old: it serves CUDA 11.4, and this build needs 12.4 (driver 550 or newer); \
             run on a node with a newer driver, or build with an older nvcc"
        );
    }

    #[test]
    fn a_missing_library_is_told_with_its_names_and_where_to_get_it() {
        assert_eq!(
            LibraryError::Missing { library: Library::CuBlas }.to_string(),
            "cuBLAS was not found (tried libcublas.so.12, libcublas.so.13, libcublas.so, libcublas.so.11): \
             load your cluster's module (`module load cuda/12`), or `pip install nvidia-cublas-cu12` and put its folder \
             nvidia/cublas/lib on LD_LIBRARY_PATH"
        );
    }
}
