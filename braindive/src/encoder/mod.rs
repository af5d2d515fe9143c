//! The brain encoder: image to voxels, and objectives over voxels.
