//! `unet/config.json`.

use crate::error::{Error, Result};
use crate::weights::read_config;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use std::path::Path;

/// The part of the configuration that decides which layers there are.
#[derive(Debug, Clone, Deserialize)]
pub struct UNetConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub cross_attention_dim: usize,
    /// Numbers of attention heads per block, in spite of the name; one number stands for all blocks.
    #[serde(deserialize_with = "one_or_many")]
    pub attention_head_dim: Vec<usize>,
    pub norm_num_groups: usize,
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
    #[serde(default)]
    pub use_linear_projection: bool,
    /// Whether the time's cosines come before its sines.
    #[serde(default = "default_flip_sin_to_cos")]
    pub flip_sin_to_cos: bool,
    /// Taken from half the number of sinusoids before the exponent is divided by it.
    #[serde(default)]
    pub freq_shift: f64,
}

fn default_norm_eps() -> f64 {
    1e-5
}

fn default_flip_sin_to_cos() -> bool {
    true
}

/// Settings that this UNet has one value of. Later networks of the same class, such as SDXL's, change them.
fn fixed() -> Value {
    json!({
        "act_fn": "silu",
        "center_input_sample": false,
        "dual_cross_attention": false,
        "only_cross_attention": false,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "transformer_layers_per_block": 1,
        "num_attention_heads": null,
        "attention_type": "default",
        "cross_attention_norm": null,
        "encoder_hid_dim": null,
        "class_embed_type": null,
        "num_class_embeds": null,
        "addition_embed_type": null,
        "time_embedding_type": "positional",
        "time_embedding_dim": null,
        "time_embedding_act_fn": null,
        "timestep_post_act": null,
        "resnet_time_scale_shift": "default",
        "resnet_skip_time_act": false,
        "resnet_out_scale_factor": 1,
    })
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<usize>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let numbers = match &value {
        Value::Array(items) => items.iter().map(Value::as_u64).collect(),
        one => one.as_u64().map(|n| vec![n]),
    };
    numbers
        .map(|numbers: Vec<u64>| numbers.into_iter().map(|n| n as usize).collect())
        .ok_or_else(|| D::Error::custom(format!("expected a number or a list of numbers, found {value}")))
}

impl UNetConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// The file cannot be read, or describes another network than `UNet2DConditionModel` of Stable Diffusion 1 and 2.
    pub fn read(path: &Path) -> Result<Self> {
        let mut config: Self = read_config(path, &fixed())?;
        let check = |fits: bool, key: &str, found: String, expected: &str| {
            let (path, key, expected) = (path.to_owned(), key.to_owned(), expected.to_owned());
            if fits { Ok(()) } else { Err(Error::Unsupported { path, key, found, expected }) }
        };
        let levels = config.block_out_channels.len();
        check(levels > 0, "block_out_channels", "empty".into(), "one number per level")?;
        if let [heads] = config.attention_head_dim[..] {
            config.attention_head_dim = vec![heads; levels];
        }
        let per_level = |n: usize, key: &str| {
            check(n == levels, key, format!("a list of {n}"), &format!("one entry for each of {levels} levels"))
        };
        per_level(config.attention_head_dim.len(), "attention_head_dim")?;
        per_level(config.down_block_types.len(), "down_block_types")?;
        per_level(config.up_block_types.len(), "up_block_types")?;
        for (&heads, &channels) in config.attention_head_dim.iter().zip(&config.block_out_channels) {
            let fits = heads > 0 && channels.is_multiple_of(heads);
            check(fits, "attention_head_dim", heads.to_string(), &format!("a divisor of {channels} channels"))?;
        }
        for &channels in &config.block_out_channels {
            let groups = config.norm_num_groups;
            let fits = channels > 0 && channels.is_multiple_of(groups);
            check(fits, "norm_num_groups", groups.to_string(), &format!("a divisor of {channels} channels"))?;
        }
        for kind in &config.down_block_types {
            let known = matches!(kind.as_str(), "CrossAttnDownBlock2D" | "DownBlock2D");
            check(known, "down_block_types", kind.clone(), "CrossAttnDownBlock2D or DownBlock2D")?;
        }
        for kind in &config.up_block_types {
            let known = matches!(kind.as_str(), "CrossAttnUpBlock2D" | "UpBlock2D");
            check(known, "up_block_types", kind.clone(), "CrossAttnUpBlock2D or UpBlock2D")?;
        }
        Ok(config)
    }

    /// Latents must be a multiple of this in height and width.
    pub fn size_multiple(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}
