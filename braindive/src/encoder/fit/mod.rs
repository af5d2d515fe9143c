//! Fitting a subject's voxel head to its prepared data (Luo et al. 2023, section 3.2).

mod adamw;
mod pytorch;
