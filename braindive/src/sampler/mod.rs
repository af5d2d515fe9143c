//! Guided sampling: schedule, solver, self-attention guidance, brain guidance, noise.

pub mod noise;
