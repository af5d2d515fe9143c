//! Data that others have made: BrainDiVE's own intermediate files, and experiments without NSD. Nothing that a file holds is executed.

mod array;
mod coco;
pub mod dataset;
mod error;
pub mod mask;
pub mod named;
pub mod npy;
pub mod pickle;
mod settings;

pub use array::{Array, Kind};
pub use error::{ImportError, Problem};
