//! Loads the libraries that a program with the feature `cuda` calls, and leads its trampolines there.

use super::functions::{cublas, cublas_lt, cudnn, curand, driver, nvrtc, quantised};
use super::trampoline::Function;
use super::{Card, Driver, Library, LibraryError, LibraryFile, devices};
use std::hint::black_box;
use std::sync::OnceLock;

// Dependents stand before what they depend on when a program is linked, so that the functions defined here are found before a library
// of cudarc's or of candle's kernels is looked into.
use candle_kernels as _;
use cudarc as _;

/// The cards after Volta.
const TURING: (u32, u32) = (7, 5);
/// Versions of cuBLAS and of cuDNN that have no kernels for Volta any more, and may say so only when one is launched.
const FIRST_WITHOUT_VOLTA: (u32, u32, u32) = (13, 0, 0);
const FIRST_CUDNN_WITHOUT_VOLTA: (u32, u32, u32) = (9, 11, 0);

/// The libraries, loaded for the rest of the process.
#[derive(Debug)]
pub struct Loaded {
    driver: &'static Driver,
    cublas_lt: LibraryFile,
    cublas: LibraryFile,
    curand: LibraryFile,
    nvrtc: LibraryFile,
    cudnn: Result<LibraryFile, LibraryError>,
}

/// Loads the libraries, once for the process. Before it has, a call of CUDA ends the process with a message.
pub fn load() -> Result<&'static Loaded, LibraryError> {
    static LOADED: OnceLock<Result<Loaded, LibraryError>> = OnceLock::new();
    LOADED.get_or_init(Loaded::load).as_ref().map_err(LibraryError::clone)
}

impl Loaded {
    fn load() -> Result<Self, LibraryError> {
        let driver = Driver::start()?;
        bind(driver.file())?;
        black_box(quantised::FUNCTIONS); // named, so that every linker takes them in
        // cuBLAS needs cuBLASLt of its own release: the one that is loaded first serves it.
        Ok(Self {
            driver,
            cublas_lt: open(Library::CuBlasLt)?,
            cublas: open(Library::CuBlas)?,
            curand: open(Library::CuRand)?,
            nvrtc: open(Library::Nvrtc)?,
            cudnn: open_cudnn(),
        })
    }

    pub fn driver(&self) -> &Driver {
        self.driver
    }

    /// All that were loaded beside the driver's; cuDNN only if it is there.
    pub fn files(&self) -> impl Iterator<Item = &LibraryFile> {
        [&self.cublas_lt, &self.cublas, &self.curand, &self.nvrtc].into_iter().chain(self.cudnn.as_ref().ok())
    }

    /// Whether a card runs this program's kernels, and the libraries that every computation needs have some for it.
    pub fn serve(&self, card: &Card) -> Result<(), LibraryError> {
        #[cfg(feature = "ptx")]
        card.runs(crate::needs().ok_or(LibraryError::NoKernels)?)?;
        [&self.cublas_lt, &self.cublas].into_iter().try_for_each(|file| serves(file, card, FIRST_WITHOUT_VOLTA))
    }

    /// cuDNN, or why it is not used. Nothing of it may be called then.
    pub fn cudnn(&self) -> Result<&LibraryFile, &LibraryError> {
        self.cudnn.as_ref()
    }
}

/// cuDNN, if it can be used; loads the libraries if that was not done yet.
pub fn cudnn() -> Option<&'static LibraryFile> {
    load().ok()?.cudnn().ok()
}

/// cuDNN, if it has kernels for every card that this process sees.
fn open_cudnn() -> Result<LibraryFile, LibraryError> {
    let file = open(Library::Cudnn)?;
    if file.version().is_none_or(|(major, ..)| major != 9) {
        return Err(LibraryError::OtherCudnn { file: file.to_string() });
    }
    file.whole()?;
    devices()?.iter().try_for_each(|card| serves(&file, card, FIRST_CUDNN_WITHOUT_VOLTA))?;
    Ok(file)
}

/// Whether a library has kernels for a card, and runs on its driver.
fn serves(file: &LibraryFile, card: &Card, first_without_volta: (u32, u32, u32)) -> Result<(), LibraryError> {
    if card.capability < TURING && file.version().is_some_and(|version| version >= first_without_volta) {
        return Err(LibraryError::NewLibrary { file: file.to_string(), card: Box::new(card.clone()) });
    }
    match file.made_for() {
        Some(made_for) if made_for > card.cuda.0 => {
            Err(LibraryError::NewerThanDriver { file: file.to_string(), made_for, served: card.cuda })
        }
        _ => Ok(()),
    }
}

/// The names of a library's functions that this program may call, and that the library must have.
pub fn functions(library: Library) -> impl Iterator<Item = &'static str> {
    list(library).iter().filter(|function| !function.newer).map(|function| function.name)
}

/// How often this program has called some functions, by prefixes of their names.
pub fn calls(library: Library, prefixes: &[&str]) -> u64 {
    let named = |function: &&Function| prefixes.iter().any(|prefix| function.name.starts_with(prefix));
    list(library).iter().filter(named).map(Function::calls).sum()
}

fn list(library: Library) -> &'static [Function] {
    match library {
        Library::Driver => driver::FUNCTIONS,
        Library::CuBlasLt => cublas_lt::FUNCTIONS,
        Library::CuBlas => cublas::FUNCTIONS,
        Library::CuRand => curand::FUNCTIONS,
        Library::Nvrtc => nvrtc::FUNCTIONS,
        Library::Cudnn => cudnn::FUNCTIONS,
    }
}

fn open(library: Library) -> Result<LibraryFile, LibraryError> {
    let file = LibraryFile::open(library)?;
    bind(&file)?;
    Ok(file)
}

/// Leads the trampolines of a library's functions to where the library has them.
fn bind(file: &LibraryFile) -> Result<(), LibraryError> {
    for function in list(file.library()) {
        match file.address(function.name) {
            Ok(address) => function.set(address),
            Err(_) if function.newer => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
