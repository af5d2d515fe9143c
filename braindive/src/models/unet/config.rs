//! `unet/config.json`.

use crate::error::{Error, Result};
use crate::weights::read_config;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
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
    #[serde(default)]
    pub flip_sin_to_cos: bool,
    #[serde(default)]
    pub freq_shift: f64,
    #[serde(default = "default_act_fn")]
    pub act_fn: String,
    #[serde(default)]
    pub center_input_sample: bool,
    #[serde(default)]
    pub dual_cross_attention: bool,
    #[serde(default)]
    pub only_cross_attention: bool,
}

fn default_norm_eps() -> f64 {
    1e-5
}

fn default_act_fn() -> String {
    "silu".to_owned()
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<usize>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let numbers = match &value {
        serde_json::Value::Array(items) => items.iter().map(serde_json::Value::as_u64).collect(),
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
        let mut config: Self = read_config(path)?;
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
        for kind in &config.down_block_types {
            let known = matches!(kind.as_str(), "CrossAttnDownBlock2D" | "DownBlock2D");
            check(known, "down_block_types", kind.clone(), "CrossAttnDownBlock2D or DownBlock2D")?;
        }
        for kind in &config.up_block_types {
            let known = matches!(kind.as_str(), "CrossAttnUpBlock2D" | "UpBlock2D");
            check(known, "up_block_types", kind.clone(), "CrossAttnUpBlock2D or UpBlock2D")?;
        }
        check(config.act_fn == "silu", "act_fn", config.act_fn.clone(), "silu")?;
        let flags = [
            ("center_input_sample", config.center_input_sample),
            ("dual_cross_attention", config.dual_cross_attention),
            ("only_cross_attention", config.only_cross_attention),
        ];
        for (key, set) in flags {
            check(!set, key, "true".into(), "false")?;
        }
        Ok(config)
    }

    /// Latents must be a multiple of this in height and width.
    pub fn size_multiple(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}
