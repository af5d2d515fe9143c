//! The brain encoder: image to voxels, and objectives over voxels.

pub mod volume;
