//! What the encoder and the probe say of saved images.

use braindive::encoder::{Encoder, Objective, encode};
use braindive::image::to_tensor;
use braindive::probe::Probe;
use braindive::{DType, Error, Tensor};
use protocol::outcome::ProbeResult;
use protocol::probe::ProbeClass;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use subject::image::RgbImage8;

/// Scores of the 8-bit image, as everybody who opens the file sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// The objective, z-scored beta units.
    pub activation: f64,
    /// Mean over the voxels of every named ROI of the subject.
    pub roi_activation: BTreeMap<String, f64>,
    pub probe: ProbeResult,
}

/// An image, and who says what of it.
#[derive(Debug, Clone, Copy)]
pub struct Judging<'a> {
    pub image: &'a RgbImage8,
    pub encoder: &'a Encoder,
    pub probe: &'a Probe,
    pub objective: &'a Objective,
    /// Those that the probe was loaded with.
    pub classes: &'a [ProbeClass],
}

impl Judging<'_> {
    /// Whether one pass through backbone and probe serves both images.
    fn shares_a_pass(&self, other: &Self) -> bool {
        let size = |image: &RgbImage8| (image.width(), image.height());
        Arc::ptr_eq(&self.encoder.backbone, &other.encoder.backbone)
            && std::ptr::eq(self.probe, other.probe)
            && size(self.image) == size(other.image)
    }
}

impl Scores {
    /// Of every image, in order; neighbours go through the networks together. An image whose scores are not finite fails alone.
    pub fn of(images: &[Judging<'_>]) -> Result<Vec<Result<Self, Error>>, Error> {
        let mut scores = Vec::with_capacity(images.len());
        for neighbours in images.chunk_by(Judging::shares_a_pass) {
            scores.extend(Self::in_one_pass(neighbours)?);
        }
        Ok(scores)
    }

    fn in_one_pass(images: &[Judging<'_>]) -> Result<Vec<Result<Self, Error>>, Error> {
        let Some(Judging { encoder, probe, .. }) = images.first() else { return Ok(Vec::new()) };
        let device = encoder.head.weight().device();
        let pixels = images.iter().map(|judging| to_tensor(judging.image, device)).collect::<Result<Vec<_>, _>>()?;
        let features = encode(&encoder.backbone, &Tensor::cat(&pixels, 0)?.into())?.features.into_value();
        let said = probe.classify(&images.iter().map(|judging| judging.image).collect::<Vec<_>>())?;
        let scores = images.iter().zip(said).enumerate().map(|(i, (judging, said))| {
            let Judging { encoder: Encoder { head, .. }, objective, classes, .. } = judging;
            let voxels = head.predict(&features.narrow(0, i, 1)?)?;
            let voxels: Vec<f64> = voxels.squeeze(0)?.to_dtype(DType::F64)?.to_vec1()?;
            let mean = |rows: &[usize]| rows.iter().map(|&row| voxels[row]).sum::<f64>() / rows.len() as f64;
            let rois = head.rois().iter().filter(|(_, rows)| !rows.is_empty());
            Ok(said.map(|said| Self {
                activation: objective.value(&voxels),
                roi_activation: rois.map(|(name, rows)| (name.clone(), mean(rows))).collect(),
                probe: ProbeResult {
                    class: classes[said.class].name.clone(),
                    class_similarity: said.class_similarity,
                    similarity: said.similarity,
                },
            }))
        });
        scores.collect()
    }
}
