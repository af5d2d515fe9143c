//! What a PNG says of itself: only what decides or describes the image, so that two attempts at a job give equal bytes.
//! Worker and seconds stand in the result's row.

use super::scores::Scores;
use protocol::ids::{Digest, Seed};
use protocol::job::Sampling;
use protocol::version::SOFTWARE;
use serde::Serialize;
use std::collections::BTreeMap;
use subject::image::{ImageError, RgbImage8, png};

/// The facts, as JSON in the iTXt entry `braindive`.
#[derive(Debug, Serialize)]
pub struct Facts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<Seed>,
    pub sampling: Sampling,
    pub effective_gamma: f64,
    #[serde(flatten)]
    pub scores: Scores,
    /// Role to sha256.
    pub models: BTreeMap<&'static str, Digest>,
    pub software: &'static str,
}

impl Facts {
    /// The image as a PNG file with the facts in it.
    pub fn png(&self, image: &RgbImage8) -> Result<Vec<u8>, ImageError> {
        // Maps with text keys and numbers always become JSON.
        let json = serde_json::to_string(self).unwrap_or_default();
        let text = BTreeMap::from([("Software".to_owned(), SOFTWARE.to_owned()), ("braindive".to_owned(), json)]);
        png::encode(image, &text)
    }
}
