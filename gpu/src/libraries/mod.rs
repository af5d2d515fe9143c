//! NVIDIA's libraries, found at run time: a program starts without them, and says which one it lacks when it needs it.

mod card;
mod driver;
mod error;
mod file;

pub use card::{Card, OLDEST, card, devices};
pub use driver::Driver;
pub use error::LibraryError;
pub use file::{Library, LibraryFile};
