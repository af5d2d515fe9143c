//! What guidance maximises: a weighted sum of region means, which collapses to one vector and one scalar.

use super::head::{Head, check_voxels};
use crate::error::{Error, Result};
use candle_core::DType;

/// Σ_k weight_k · Σ_{v ∈ S_k} (W_v·f + b_v) / denominator_k, z-scored beta units.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    pub terms: Vec<Term>,
}

/// One region of an objective.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    /// For messages.
    pub region: String,
    /// Positive to maximise, negative to suppress.
    pub weight: f64,
    /// Row numbers of the head, each at most once.
    pub voxels: Vec<usize>,
    /// What the sum is divided by: the number of voxels for their mean. Larger where the region's mask also holds voxels
    /// that the head does not predict and the mean is taken over the whole mask, as the authors' code does.
    pub denominator: usize,
}

impl Term {
    /// The mean over `voxels` with weight 1.
    pub fn mean(region: impl Into<String>, voxels: Vec<usize>) -> Self {
        Self { region: region.into(), weight: 1.0, denominator: voxels.len(), voxels }
    }
}

impl Objective {
    /// γ as it acts on the mean over the voxels that the head predicts: γ · |S|/denominator, averaged over the terms by
    /// the size of their weights.
    pub fn effective_gamma(&self, gamma: f64) -> f64 {
        let size: f64 = self.terms.iter().map(|term| term.weight.abs()).sum();
        if size == 0.0 {
            return 0.0;
        }
        let share = |term: &Term| term.weight.abs() / size * term.voxels.len() as f64 / term.denominator as f64;
        gamma * self.terms.iter().map(share).sum::<f64>()
    }

    /// The objective's value. `voxels`: [N], predicted activation of every voxel of the head, z-scored beta units.
    ///
    /// # Panics
    /// If a region names a voxel that is not among `voxels`, which [`Objective::target`] refuses.
    pub fn value(&self, voxels: &[f64]) -> f64 {
        let sum = |term: &Term| term.voxels.iter().map(|&voxel| voxels[voxel]).sum::<f64>();
        self.terms.iter().map(|term| term.weight * sum(term) / term.denominator as f64).sum()
    }

    /// The objective as one direction in feature space: Σ weight/denominator · W_v, and the same sum of biases. Exact,
    /// because the head is linear.
    ///
    /// # Errors
    /// A region is empty, lists a voxel twice or names one that the head lacks; a denominator is smaller than the number of voxels; a
    /// weight is not finite.
    pub fn target(&self, head: &Head) -> Result<Target> {
        if self.terms.is_empty() {
            let (found, expected) = ("empty".to_owned(), "at least one region".to_owned());
            return Err(Error::Parameter { what: "the objective", found, expected });
        }
        let (voxels, features) = (head.voxels(), head.features());
        let weights = head.weight().to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let biases = head.bias().to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let (mut direction, mut offset) = (vec![0f64; features], 0.0);
        for term in &self.terms {
            check_voxels(&term.region, &term.voxels, voxels)?;
            if let Some(voxel) = repeated(&term.voxels) {
                return Err(Error::RepeatedVoxel { region: term.region.clone(), voxel });
            }
            if term.denominator < term.voxels.len() {
                let expected = format!("at least the {} voxels of region {}", term.voxels.len(), term.region);
                let found = term.denominator.to_string();
                return Err(Error::Parameter { what: "an objective's denominator", found, expected });
            }
            if !term.weight.is_finite() {
                let (found, expected) = (term.weight.to_string(), "a finite number".to_owned());
                return Err(Error::Parameter { what: "an objective's weight", found, expected });
            }
            let scale = term.weight / term.denominator as f64;
            for &voxel in &term.voxels {
                let row = &weights[voxel * features..(voxel + 1) * features];
                direction.iter_mut().zip(row).for_each(|(d, w)| *d += scale * w);
                offset += scale * biases[voxel];
            }
        }
        Ok(Target { direction, offset })
    }
}

/// The smallest number that is listed more than once.
fn repeated(voxels: &[usize]) -> Option<usize> {
    let mut sorted = voxels.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// An objective collapsed to one direction and one scalar: whatever the region and the subject, so that one batch can mix them.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// K elements.
    direction: Vec<f64>,
    offset: f64,
}

impl Target {
    /// `direction`: K elements; `offset`: the value at features of zero.
    pub fn new(direction: Vec<f64>, offset: f64) -> Self {
        Self { direction, offset }
    }

    /// The objective's value for an image's `features`, K elements; z-scored beta units.
    pub fn activation(&self, features: &[f64]) -> f64 {
        self.direction.iter().zip(features).map(|(d, f)| d * f).sum::<f64>() + self.offset
    }

    /// The value at features of zero.
    pub fn offset(&self) -> f64 {
        self.offset
    }

    /// The gradient of [`Target::activation`], the same for all features: K elements.
    pub fn direction(&self) -> &[f64] {
        &self.direction
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use std::collections::HashMap;

    fn head(folder: &tempfile::TempDir) -> Head {
        let path = folder.path().join("head.safetensors");
        let tensors = HashMap::from([
            ("weight".to_owned(), Tensor::new(&[[1f32, 0.], [0., 2.], [3., 1.]], &Device::Cpu).unwrap()),
            ("bias".to_owned(), Tensor::new(&[0.5f32, -1., 0.25], &Device::Cpu).unwrap()),
        ]);
        candle_core::safetensors::save(&tensors, &path).unwrap();
        Head::load(folder.path(), DType::F64, &Device::Cpu).unwrap()
    }

    #[test]
    fn the_collapsed_objective_equals_the_weighted_sum_of_predicted_voxels() {
        let folder = tempfile::tempdir().unwrap();
        let head = head(&folder);
        let suppressed = Term { weight: -0.5, denominator: 3, ..Term::mean("b", vec![2]) };
        let objective = Objective { terms: vec![Term::mean("a", vec![0, 1]), suppressed] };
        let features = Tensor::new(&[[0.6f64, 0.8]], &Device::Cpu).unwrap();
        let v = head.predict(&features).unwrap().to_vec2::<f64>().unwrap()[0].clone();
        let expected = (v[0] + v[1]) / 2.0 - 0.5 * v[2] / 3.0;
        let found = objective.target(&head).unwrap().activation(&[0.6, 0.8]);
        assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        assert!((objective.value(&v) - expected).abs() < 1e-15);
        assert!((objective.effective_gamma(90.0) - 90.0 * (1.0 + 0.5 / 3.0) / 1.5).abs() < 1e-12);
        let ignored = Objective { terms: vec![Term { weight: 0.0, ..Term::mean("a", vec![0]) }] };
        assert_eq!(ignored.effective_gamma(90.0), 0.0);
    }

    /// The authors' encoder gives zeros where no voxel was fitted, and the mean over a mask counts them.
    #[test]
    fn zeros_in_the_mean_scale_guidance_by_the_fitted_share_of_the_mask() {
        let folder = tempfile::tempdir().unwrap();
        let head = head(&folder);
        let (fitted, mask) = (vec![0, 2], 5);
        let whole_mask = Objective { terms: vec![Term { denominator: mask, ..Term::mean("a", fitted.clone()) }] };
        let of_fitted = Objective { terms: vec![Term::mean("a", fitted.clone())] };
        let features = Tensor::new(&[[0.6f64, 0.8]], &Device::Cpu).unwrap();
        let v = head.predict(&features).unwrap().to_vec2::<f64>().unwrap()[0].clone();
        let with_zeros = [v[0], v[2], 0.0, 0.0, 0.0];
        let mean = with_zeros.iter().sum::<f64>() / mask as f64;
        assert!((whole_mask.target(&head).unwrap().activation(&[0.6, 0.8]) - mean).abs() < 1e-15);
        let share = fitted.len() as f64 / mask as f64;
        assert!((whole_mask.effective_gamma(130.0) - 130.0 * share).abs() < 1e-12);
        let (scaled, plain) = (whole_mask.target(&head).unwrap(), of_fitted.target(&head).unwrap());
        for (scaled, plain) in scaled.direction().iter().zip(plain.direction()) {
            assert!((scaled - share * plain).abs() < 1e-15, "{scaled} {plain}");
        }
    }

    #[test]
    fn an_empty_region_or_a_voxel_that_the_head_lacks_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let head = head(&folder);
        let error = |voxels| Objective { terms: vec![Term::mean("mTL-faces", voxels)] }.target(&head).unwrap_err();
        assert!(matches!(error(vec![]), Error::EmptyRegion { region } if region == "mTL-faces"));
        assert!(matches!(error(vec![0, 3]), Error::NoSuchVoxel { voxel: 3, last: 2, .. }));
        assert!(matches!(error(vec![2, 0, 2]), Error::RepeatedVoxel { voxel: 2, .. }));
    }

    #[test]
    fn a_named_region_or_cluster_that_lists_a_voxel_twice_counts_it_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), r#"{"rois": {"a": [2, 0, 2]}, "clusters": {"b": [1, 1]}}"#)
            .unwrap();
        let head = head(&folder);
        assert_eq!((&head.rois()["a"][..], &head.clusters()["b"][..]), (&[0, 2][..], &[1][..]));
    }
}
