//! The networks, with the published key names.

pub mod clip_text;
pub mod coca;
pub mod open_clip;
pub mod residual_block;
mod resnet;
pub mod text;
mod text_transformer;
pub mod tokenizer;
pub mod unet;
pub mod vae;
pub mod vae_encoder;
pub mod vit;
mod vit_config;

pub use vit_config::{Torchvision, VitConfig};
