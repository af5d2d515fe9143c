//! The Natural Scenes Dataset (Allen et al. 2022) on disk.

pub mod simulate;
