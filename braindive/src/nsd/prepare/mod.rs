//! NSD to a subject's prepared data: betas z-scored by session and averaged over repeats, a voxel set, regions, a split, images resized
//! (Luo et al. 2023, section 4.1).

mod settings;

pub use settings::Settings;
