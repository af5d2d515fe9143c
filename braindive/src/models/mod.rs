//! The networks, with the published key names.

pub mod residual_block;
mod resnet;
pub mod unet;
pub mod vae;
pub mod vit;
