//! The images that samples start from.

use super::bundle::Diffusion;
use super::diagnose::Diagnostics;
use super::fields::Located;
use super::files::{Files, Image};
use super::grid::MOST_JOBS;
use super::model::Whereabouts;
use super::sample::SampleDraft;
use super::sampling::{self, Setting};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One subject's images, by the paths that the file gives.
pub type Images = BTreeMap<String, Arc<Image>>;

/// Opens every image that the file names, for one subject; what is missing or of another size than the samples is told.
pub fn open(
    draft: &SampleDraft,
    subject: &str,
    places: &Whereabouts,
    files: &mut Files<'_>,
    diagnostics: &mut Diagnostics,
) -> Images {
    let mut images = Images::new();
    for setting in draft.all_settings() {
        if let Setting::InitImage(name) = &setting.value
            && let Some(image) = files.image(&places.path(name, subject), setting.place, diagnostics)
        {
            check_size(draft, setting, &image, diagnostics);
            images.insert(name.clone(), image);
        }
    }
    images
}

/// An image needs the encoder of the diffusion model's VAE to become latents.
pub fn check_encoders<'a>(
    draft: &SampleDraft,
    models: impl Iterator<Item = &'a Arc<Diffusion>>,
    diagnostics: &mut Diagnostics,
) {
    let image = draft.all_settings().find(|setting| matches!(setting.value, Setting::InitImage(_)));
    let Some(place) = image.map(|setting| setting.place) else { return };
    for model in models.filter(|model| !model.has_vae_encoder) {
        diagnostics
            .missing(place, "the diffusion model cannot start from an image: its VAE has no encoder")
            .note(format!(
                "expected `encoder.conv_in.weight` and `quant_conv.weight` in {}",
                model.bundle.folder.join("vae").display()
            ))
            .note("take the published weights, which hold encoder and decoder");
    }
}

/// The cells that start from `image` must make images of its size.
fn check_size(draft: &SampleDraft, setting: &Located<Setting>, image: &Image, diagnostics: &mut Diagnostics) {
    if u128::from(draft.grid.points()) > MOST_JOBS {
        return;
    }
    let points = draft.grid.cells();
    let starts = |point: &&Vec<&Located<Setting>>| {
        matches!(&setting.value, Setting::InitImage(name)
            if sampling::start(draft.settings_at(point)).is_some_and(|(started, _)| started == name))
    };
    let sizes = points.iter().filter(starts).map(|point| sampling::resolve(draft.settings_at(point)).size);
    let Some([width, height]) = sizes.into_iter().find(|size| *size != image.size) else { return };
    let [found_width, found_height] = image.size;
    let message =
        format!("the image to start from has {found_width} × {found_height} pixels, the samples {width} × {height}");
    let told = diagnostics.found().iter().any(|found| found.place == setting.place && found.message == message);
    if !told {
        diagnostics.mistake(setting.place, message).note(format!("resize {}, or set `size`", image.path.display()));
    }
}
