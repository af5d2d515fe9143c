//! The Natural Scenes Dataset (Allen et al. 2022) as it lies on disk, and a subject's prepared data made from it. Readers are one file a
//! format; where the files are is [`layout`]'s to know; what is done with them is [`prepare`]'s.

pub mod betas;
mod chunks;
pub mod ctab;
mod design;
mod error;
mod hdf5;
pub mod import;
pub mod layout;
pub mod mat5;
pub mod mgh;
pub mod prepare;
mod roi;
pub mod simulate;
pub mod stim_info;
mod stimuli;

pub use design::Design;
pub use error::NsdError;
pub use layout::{Layout, Subject};
pub use roi::Roi;
pub use stimuli::Stimuli;

/// Trials of every session.
pub const TRIALS: usize = 750;
/// Images of the whole experiment; what NSD calls the 73k id, counted from 0, is below this.
pub const IMAGES: usize = 73_000;
