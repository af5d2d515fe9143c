//! Zero-shot classification (Luo et al. 2023, section 4.2 and supplement, section 15): an image belongs to the class of the single prompt whose
//! CoCa feature has the highest cosine with the image's.

use crate::error::{Error, Result};
use crate::layers::Linear;
use crate::models::coca::Coca;
use crate::models::tokenizer::Tokenizer;
use candle_core::{DType, Device, Tensor};
use std::path::Path;
use subject::image::RgbImage8;

/// A named class and the prompts that stand for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptClass {
    pub name: String,
    pub prompts: Vec<String>,
}

/// A CoCa model and the features of the prompts that it compares images with.
#[derive(Debug)]
pub struct Probe {
    coca: Coca,
    /// [prompts, features], unit norm; the classes' prompts one after the other.
    text_features: Tensor,
    /// Image features → cosine with every prompt.
    cosines: Linear,
    /// Prompts of each class.
    class_sizes: Vec<usize>,
}

/// What a probe says of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    /// Index of the class of the best prompt; the first of equals.
    pub class: usize,
    /// Cosine of each class's best prompt, in the order of the classes.
    pub class_similarity: Vec<f64>,
    /// Cosine of every prompt, in the order of the classes and their prompts.
    pub similarity: Vec<f64>,
}

impl Probe {
    /// Reads a CoCa folder and computes the features of every prompt. `tokenizer` is an OpenCLIP one.
    ///
    /// # Errors
    /// A file is missing or broken, there are no classes, or a class has no prompts.
    pub fn load(folder: &Path, tokenizer: &Tokenizer, classes: &[PromptClass], device: &Device) -> Result<Self> {
        let empty =
            classes.iter().find(|class| class.prompts.is_empty()).map(|class| format!("none of `{}`", class.name));
        if let Some(found) = empty.or_else(|| classes.is_empty().then(|| "no class".to_owned())) {
            let expected = "at least one prompt for each class".to_owned();
            return Err(Error::Parameter { what: "the probe's list of prompts", found, expected });
        }
        let coca = Coca::load(folder, DType::F32, device)?;
        let prompts: Vec<&str> = classes.iter().flat_map(|class| &class.prompts).map(String::as_str).collect();
        let ids = tokenizer.encode_batch(&prompts, coca.context(), device)?;
        let text_features = coca.encode_text(&ids)?;
        let cosines = Linear::new(&text_features, None)?;
        let class_sizes = classes.iter().map(|class| class.prompts.len()).collect();
        Ok(Self { coca, text_features, cosines, class_sizes })
    }

    /// Features of every prompt, [prompts, features], unit norm.
    pub fn text_features(&self) -> &Tensor {
        &self.text_features
    }

    /// Classifies 8-bit images of any size in one pass; one whose similarities are not finite fails alone.
    ///
    /// # Errors
    /// The computation fails.
    pub fn classify(&self, images: &[&RgbImage8]) -> Result<Vec<Result<Classification>>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let pixels = images.iter().map(|image| self.coca.preprocess(image)).collect::<Result<Vec<_>>>()?;
        let features = self.coca.encode_image(&Tensor::cat(&pixels, 0)?)?;
        let similarities = self.cosines.forward(&features.into())?.into_value();
        let similarities = similarities.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let classify = |similarity: Vec<f64>| match similarity.iter().position(|cosine| !cosine.is_finite()) {
            Some(prompt) => Err(Error::NonFiniteSimilarity { prompt, found: similarity[prompt] }),
            None => Ok(Classification::of(similarity, &self.class_sizes)),
        };
        Ok(similarities.into_iter().map(classify).collect())
    }
}

impl Classification {
    /// From the cosine of every prompt and the number of prompts of each class.
    fn of(similarity: Vec<f64>, class_sizes: &[usize]) -> Self {
        let mut prompts = similarity.iter().copied();
        let class_similarity: Vec<f64> =
            class_sizes.iter().map(|&size| prompts.by_ref().take(size).fold(f64::NEG_INFINITY, f64::max)).collect();
        let best = class_similarity.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let class = class_similarity.iter().position(|&similarity| similarity == best).unwrap_or(0);
        Self { class, class_similarity, similarity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_single_prompt_decides_and_not_a_classes_mean() {
        let found = Classification::of(vec![0.2, 0.2, -0.9, 0.3, 0.1, 0.3], &[2, 2, 1, 1]);
        assert_eq!(found.class_similarity, [0.2, 0.3, 0.1, 0.3]);
        assert_eq!(found.class, 1, "the first of equals");
    }
}
