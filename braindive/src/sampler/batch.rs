//! A batch as a device sees it: what all steps of a run share, made once, so that no step waits for the host.

use super::Item;
use candle_core::{D, DType, Device, Result, Tensor};

/// Images that go through the networks together.
#[derive(Debug, Clone)]
pub struct Batch {
    /// [batch, tokens, width]
    pub(super) prompt_embeds: Tensor,
    /// Gradients of the objectives, f64: [batch, K].
    directions: Tensor,
    /// The objectives' values at features of zero, f64: [batch].
    offsets: Tensor,
    /// Gradients of γ·objective: [batch, K].
    scaled: Tensor,
    /// Whether any γ differs from 0.
    pub(super) is_guided: bool,
}

impl Batch {
    /// `dtype`: that of image features.
    ///
    /// # Errors
    /// Two targets have different numbers of features, or prompts different shapes.
    pub(super) fn new(items: &[Item], dtype: DType, device: &Device) -> Result<Self> {
        let prompts: Vec<&Tensor> = items.iter().map(|item| &item.prompt_embeds).collect();
        let rows = |scale: fn(&Item) -> f64| {
            let row = |item: &Item| -> Vec<f64> { item.target.direction().iter().map(|d| scale(item) * d).collect() };
            Tensor::new(items.iter().map(row).collect::<Vec<_>>(), device)
        };
        let offsets: Vec<f64> = items.iter().map(|item| item.target.offset()).collect();
        Ok(Self {
            prompt_embeds: Tensor::cat(&prompts, 0)?,
            directions: rows(|_| 1.0)?,
            offsets: Tensor::new(offsets, device)?,
            scaled: rows(|item| item.gamma)?.to_dtype(dtype)?,
            is_guided: items.iter().any(|item| item.gamma != 0.0),
        })
    }

    /// The same batch without brain guidance.
    pub(super) fn unguided(&self) -> Self {
        Self { is_guided: false, ..self.clone() }
    }

    /// Every image's objective, given its `features` [batch, K]: [batch], f64.
    pub(super) fn activation(&self, features: &Tensor) -> Result<Tensor> {
        (features.to_dtype(DType::F64)? * &self.directions)?.sum(D::Minus1)? + &self.offsets
    }

    /// ∂(Σ γ·activation)/∂features: row i is γ_i times the direction of target i.
    pub(super) fn cotangent(&self) -> &Tensor {
        &self.scaled
    }
}
