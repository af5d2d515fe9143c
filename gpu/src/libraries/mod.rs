//! NVIDIA's libraries, found at run time: a program starts without them, and says which one it lacks when it needs it.
//!
//! Every build can ask for the driver and its cards. With the feature `libraries` a program also calls CUDA through cudarc and candle:
//! `load` must come first.

mod card;
mod driver;
mod error;
mod file;
#[cfg(feature = "libraries")]
mod functions;
#[cfg(feature = "libraries")]
mod load;
#[cfg(feature = "libraries")]
mod trampoline;

pub use card::{Card, card, devices};
pub use driver::Driver;
pub use error::LibraryError;
pub use file::{Library, LibraryFile};
#[cfg(feature = "libraries")]
pub use load::{Loaded, calls, cudnn, functions, load};
