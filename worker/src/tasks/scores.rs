//! What the encoder and the probe say of a saved image.

use braindive::encoder::{Encoder, Objective};
use braindive::image::RgbImage8;
use braindive::probe::Probe;
use braindive::{DType, Error};
use protocol::outcome::ProbeResult;
use protocol::probe::ProbeClass;
use serde::Serialize;
use std::collections::BTreeMap;

/// Scores of the 8-bit image, as everybody who opens the file sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// The objective, z-scored beta units.
    pub activation: f64,
    /// Mean over the voxels of every named ROI of the subject.
    pub roi_activation: BTreeMap<String, f64>,
    pub probe: ProbeResult,
}

impl Scores {
    /// `classes` are those that the probe was loaded with.
    pub fn of(
        image: &RgbImage8,
        encoder: &Encoder,
        probe: &Probe,
        objective: &Objective,
        classes: &[ProbeClass],
    ) -> Result<Self, Error> {
        let voxels = encoder.voxels(&image.to_tensor(encoder.head.weight().device())?)?;
        let voxels: Vec<f64> = voxels.squeeze(0)?.to_dtype(DType::F64)?.to_vec1()?;
        let mean = |rows: &[usize]| rows.iter().map(|&row| voxels[row]).sum::<f64>() / rows.len() as f64;
        let rois = encoder.head.rois().iter().filter(|(_, rows)| !rows.is_empty());
        let said = probe.classify(image)?;
        Ok(Self {
            activation: objective.value(&voxels),
            roi_activation: rois.map(|(name, rows)| (name.clone(), mean(rows))).collect(),
            probe: ProbeResult {
                class: classes[said.class].name.clone(),
                class_similarity: said.class_similarity,
                similarity: said.similarity,
            },
        })
    }
}
