//! A shared library of NVIDIA's, by the names that it goes by.

use super::LibraryError;
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};
use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::{env, fmt};

/// A library that a program with the feature `cuda` needs of a node; cuDNN it only prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Library {
    Driver,
    CuBlasLt,
    CuBlas,
    CuRand,
    Nvrtc,
    Cudnn,
}

impl Library {
    /// File names, the one that suits best first.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Driver => &["libcuda.so.1", "libcuda.so"],
            Self::CuBlasLt => &["libcublasLt.so.12", "libcublasLt.so.13", "libcublasLt.so", "libcublasLt.so.11"],
            Self::CuBlas => &["libcublas.so.12", "libcublas.so.13", "libcublas.so", "libcublas.so.11"],
            Self::CuRand => &["libcurand.so.10", "libcurand.so"],
            Self::Nvrtc => &["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so", "libnvrtc.so.11.2"],
            Self::Cudnn => &["libcudnn.so.9", "libcudnn.so"],
        }
    }

    /// The package of PyPI that brings it.
    pub fn wheel(self) -> &'static str {
        match self {
            Self::Driver => "",
            Self::CuBlasLt | Self::CuBlas => "nvidia-cublas-cu12",
            Self::CuRand => "nvidia-curand-cu12",
            Self::Nvrtc => "nvidia-cuda-nvrtc-cu12",
            Self::Cudnn => "nvidia-cudnn-cu12",
        }
    }

    /// Where that package has it, under `site-packages`.
    pub fn wheel_folder(self) -> &'static str {
        match self {
            Self::Driver => "",
            Self::CuBlasLt | Self::CuBlas => "nvidia/cublas/lib",
            Self::CuRand => "nvidia/curand/lib",
            Self::Nvrtc => "nvidia/cuda_nvrtc/lib",
            Self::Cudnn => "nvidia/cudnn/lib",
        }
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "the NVIDIA driver",
            Self::CuBlasLt => "cuBLASLt",
            Self::CuBlas => "cuBLAS",
            Self::CuRand => "cuRAND",
            Self::Nvrtc => "NVRTC",
            Self::Cudnn => "cuDNN",
        })
    }
}

/// A library that was found and opened.
#[derive(Debug)]
pub struct LibraryFile {
    library: Library,
    /// As the dynamic linker was asked for it: a name, or a path in a toolkit's folder.
    name: PathBuf,
    handle: Handle,
}

impl LibraryFile {
    /// Opens the first that there is: where the dynamic linker looks (LD_LIBRARY_PATH, its cache), then in the toolkit's folder and in conda's.
    pub(super) fn open(library: Library) -> Result<Self, LibraryError> {
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
        let toolkits: Vec<PathBuf> = match library {
            Library::Driver => Vec::new(),
            _ => {
                let conda = env::var_os("CONDA_PREFIX").map(|prefix| PathBuf::from(prefix).join("lib"));
                homes.chain(["/usr/local/cuda".into()]).map(|home| home.join("lib64")).chain(conda).collect()
            }
        };
        let names = library.names().iter().map(PathBuf::from);
        let under = toolkits.iter().flat_map(|folder| library.names().iter().map(move |name| folder.join(name)));
        let mut broken = None;
        for name in names.chain(under.filter(|path| path.exists())) {
            // SAFETY: opening runs the initialisers of a library of NVIDIA's, which ask nothing of the process.
            match unsafe { Handle::open(Some(&name), RTLD_NOW | RTLD_LOCAL) } {
                Ok(handle) => return Ok(Self { library, name, handle }),
                Err(error) => {
                    let reason = error.source().map_or_else(|| error.to_string(), |said| said.to_string());
                    let absent = reason.starts_with(&format!("{}: cannot open shared object file", name.display()));
                    broken = broken.or_else(|| (!absent).then_some((name, reason)));
                }
            }
        }
        Err(match (broken, library) {
            (Some((name, reason)), _) => LibraryError::Broken { library, file: name.display().to_string(), reason },
            (None, Library::Driver) => LibraryError::NoDriver,
            (None, _) => LibraryError::Missing { library },
        })
    }

    pub fn library(&self) -> Library {
        self.library
    }

    /// The major release of CUDA whose driver it needs; `None` of libraries that have a numbering of their own and do not tell.
    #[cfg(feature = "libraries")]
    pub(super) fn made_for(&self) -> Option<u32> {
        match self.library {
            Library::CuBlasLt | Library::CuBlas | Library::Nvrtc => Some(self.version()?.0),
            Library::Cudnn => {
                // SAFETY: cudnn.h declares it so.
                let version =
                    unsafe { self.function::<unsafe extern "C" fn() -> usize>("cudnnGetCudartVersion").ok()?() };
                u32::try_from(version / 1000).ok()
            }
            Library::Driver | Library::CuRand => None,
        }
    }

    /// The version that the library tells of itself: 12.4.5 for the cuBLAS of CUDA 12.4. The driver's is of another kind.
    pub fn version(&self) -> Option<(u32, u32, u32)> {
        type GetProperty = unsafe extern "C" fn(c_int, *mut c_int) -> c_int;
        type GetVersion = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
        let part = |value: c_int| u32::try_from(value).ok();
        let property = match self.library {
            Library::Driver => return None,
            Library::Nvrtc => {
                let (mut major, mut minor) = (0, 0);
                // SAFETY: nvrtc.h declares it so; it writes two ints.
                let code = unsafe { self.function::<GetVersion>("nvrtcVersion").ok()?(&raw mut major, &raw mut minor) };
                return (code == 0).then_some((part(major)?, part(minor)?, 0));
            }
            Library::CuBlasLt => "cublasLtGetProperty",
            Library::CuBlas => "cublasGetProperty",
            Library::CuRand => "curandGetProperty",
            Library::Cudnn => "cudnnGetProperty",
        };
        // SAFETY: the four headers declare it so.
        let get_property: GetProperty = unsafe { self.function(property) }.ok()?;
        // `libraryPropertyType`: major version, minor version, patch level.
        let [major, minor, patch] = [0, 1, 2].map(|kind| {
            let mut value = 0;
            // SAFETY: it writes one int.
            let code = unsafe { get_property(kind, &raw mut value) };
            (code == 0).then_some(value).and_then(part)
        });
        Some((major?, minor?, patch?))
    }

    /// The file that the dynamic linker took.
    pub fn path(&self) -> PathBuf {
        let known = match self.library {
            Library::Driver => "cuInit",
            Library::CuBlasLt => "cublasLtCreate",
            Library::CuBlas => "cublasCreate_v2",
            Library::CuRand => "curandCreateGenerator",
            Library::Nvrtc => "nvrtcVersion",
            Library::Cudnn => "cudnnCreate",
        };
        self.address(known).ok().and_then(file_of).unwrap_or_else(|| self.name.clone())
    }

    /// Whether the parts of cuDNN 9 are there, too, which it loads when it is first called: it ends the process where one is missing.
    #[cfg(feature = "libraries")]
    pub(super) fn whole(&self) -> Result<(), LibraryError> {
        let path = self.path();
        for part in ["graph", "ops", "cnn", "heuristic", "engines_precompiled"] {
            let part = format!("libcudnn_{part}.so.9");
            let beside = path.with_file_name(&part);
            // SAFETY: as in `open`; it is closed again.
            if !beside.exists() && unsafe { Handle::open(Some(&part), RTLD_NOW | RTLD_LOCAL) }.is_err() {
                let reason = format!("{part} is not beside it");
                return Err(LibraryError::Broken { library: self.library, file: path.display().to_string(), reason });
            }
        }
        Ok(())
    }

    /// The address of a function.
    pub(super) fn address(&self, symbol: &'static str) -> Result<*mut c_void, LibraryError> {
        // SAFETY: an address, of whatever type.
        unsafe { self.function(symbol) }
    }

    /// A function that the library must have.
    ///
    /// # Safety
    ///
    /// `F` must be a function's pointer, of the type that the library's header declares, or `*mut c_void`.
    pub(super) unsafe fn function<F: Copy>(&self, symbol: &'static str) -> Result<F, LibraryError> {
        // SAFETY: the caller knows the type.
        let found = unsafe { self.handle.get::<F>(symbol) };
        let file = self.name.display().to_string();
        found.map(|function| *function).map_err(|_| LibraryError::Symbol { library: self.library, file, symbol })
    }
}

impl fmt::Display for LibraryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.library)?;
        if let Some((major, minor, patch)) = self.version() {
            write!(f, "{major}.{minor}.{patch} ")?;
        }
        write!(f, "({})", self.path().display())
    }
}

/// The file that the code at an address was loaded from.
fn file_of(address: *mut c_void) -> Option<PathBuf> {
    #[repr(C)]
    struct DlInfo {
        file_name: *const c_char,
        file_base: *mut c_void,
        symbol_name: *const c_char,
        symbol_address: *mut c_void,
    }
    unsafe extern "C" {
        fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
    }
    let none: *mut c_void = std::ptr::null_mut();
    let mut info = DlInfo { file_name: none.cast(), file_base: none, symbol_name: none.cast(), symbol_address: none };
    // SAFETY: it takes any address, and writes the structure of dlfcn.h.
    let found = unsafe { dladdr(address, &raw mut info) } != 0 && !info.file_name.is_null();
    // SAFETY: the name is the dynamic linker's own, and stays as long as the library does: always.
    let name = found.then(|| unsafe { CStr::from_ptr(info.file_name) })?;
    Some(PathBuf::from(name.to_str().ok()?))
}
