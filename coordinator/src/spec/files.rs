//! The files that experiments name: hashed once each, however many conditions use them.

use super::diagnose::{Diagnostics, Place};
use super::volume::Voxels;
use indicatif::{ProgressBar, ProgressStyle};
use protocol::ids::Digest;
use protocol::job::{ModelFile, ModelFolder};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Hashing that takes longer than this shows a progress bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sizes and sha256 digests of files, each file read once.
#[derive(Debug, Default)]
pub struct Digests {
    known: HashMap<PathBuf, (u64, Digest)>,
    show_progress: bool,
}

impl Digests {
    /// `show_progress`: draw a bar on standard error (if it is a terminal) while a large file is hashed.
    pub fn new(show_progress: bool) -> Self {
        Self { known: HashMap::new(), show_progress }
    }

    /// Bytes and sha256 of the file at `path`.
    pub fn file(&mut self, path: &Path) -> io::Result<(u64, Digest)> {
        if let Some(known) = self.known.get(path) {
            return Ok(known.clone());
        }
        let digest = self.hash(path)?;
        self.known.insert(path.to_owned(), digest.clone());
        Ok(digest)
    }

    /// The manifest of `folder` with the files `names`.
    pub fn folder(&mut self, folder: &Path, names: &[String]) -> io::Result<ModelFolder> {
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let (bytes, sha256) = self
                .file(&folder.join(name))
                .map_err(|error| io::Error::new(error.kind(), format!("reading {name}: {error}")))?;
            files.push(ModelFile { name: name.clone(), bytes, sha256 });
        }
        Ok(super::input::folder(folder, files))
    }

    fn hash(&self, path: &Path) -> io::Result<(u64, Digest)> {
        let mut file = File::open(path)?;
        let total = file.metadata()?.len();
        let started = Instant::now();
        let mut bar: Option<ProgressBar> = None;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            bytes += count as u64;
            if self.show_progress && started.elapsed() > PATIENCE {
                bar.get_or_insert_with(|| hashing(path, total)).set_position(bytes);
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        Ok((bytes, Digest::from_bytes(&hash.finalize().into())))
    }
}

fn hashing(path: &Path, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    ProgressBar::new(total).with_style(style).with_message(format!("hashing {name}"))
}

/// A NIfTI volume, read and hashed.
#[derive(Debug)]
pub struct Volume {
    pub path: PathBuf,
    pub sha256: Digest,
    pub voxels: Voxels,
}

/// A PNG image, decoded once and hashed.
#[derive(Debug, PartialEq)]
pub struct Image {
    pub path: PathBuf,
    pub sha256: Digest,
    /// Width and height in pixels.
    pub size: [u32; 2],
}

/// The files of one experiment: each read once, each told once if it cannot be.
#[derive(Debug)]
pub struct Files<'d> {
    pub digests: &'d mut Digests,
    volumes: HashMap<PathBuf, Option<Arc<Volume>>>,
    images: HashMap<PathBuf, Option<Arc<Image>>>,
}

impl<'d> Files<'d> {
    pub fn new(digests: &'d mut Digests) -> Self {
        Self { digests, volumes: HashMap::new(), images: HashMap::new() }
    }

    /// The NIfTI volume at `path`, asked for at `place`.
    pub fn volume(&mut self, path: &Path, place: Place, diagnostics: &mut Diagnostics) -> Option<Arc<Volume>> {
        if let Some(known) = self.volumes.get(path) {
            return known.clone();
        }
        let volume = self.read_volume(path, place, diagnostics).map(Arc::new);
        self.volumes.insert(path.to_owned(), volume.clone());
        volume
    }

    fn read_volume(&mut self, path: &Path, place: Place, diagnostics: &mut Diagnostics) -> Option<Volume> {
        if !path.is_file() {
            diagnostics.missing_file(place, "volumes are missing", path);
            return None;
        }
        let damaged = |error: &dyn Error, diagnostics: &mut Diagnostics| {
            diagnostics.missing(place, format!("reading the volume {}: {}", path.display(), chain(error)));
        };
        let voxels = Voxels::read(path).map_err(|error| damaged(&error, diagnostics)).ok()?;
        let (_, sha256) = self.digests.file(path).map_err(|error| damaged(&error, diagnostics)).ok()?;
        Some(Volume { path: path.to_owned(), sha256, voxels })
    }

    /// The PNG image at `path`, asked for at `place`.
    pub fn image(&mut self, path: &Path, place: Place, diagnostics: &mut Diagnostics) -> Option<Arc<Image>> {
        if let Some(known) = self.images.get(path) {
            return known.clone();
        }
        let image = self.read_image(path, place, diagnostics).map(Arc::new);
        self.images.insert(path.to_owned(), image.clone());
        image
    }

    fn read_image(&mut self, path: &Path, place: Place, diagnostics: &mut Diagnostics) -> Option<Image> {
        if !path.is_file() {
            diagnostics.missing_file(place, "images to start from are missing", path);
            return None;
        }
        let damaged = |error: &dyn Error, diagnostics: &mut Diagnostics| {
            diagnostics
                .missing(place, format!("reading the image {}: {}", path.display(), chain(error)))
                .note("expected a PNG file");
        };
        let size = png_size(path).map_err(|error| damaged(&error, diagnostics)).ok()?;
        let (_, sha256) = self.digests.file(path).map_err(|error| damaged(&error, diagnostics)).ok()?;
        Some(Image { path: path.to_owned(), sha256, size })
    }
}

/// The size of a whole PNG file.
fn png_size(path: &Path) -> image::ImageResult<[u32; 2]> {
    let mut reader = image::ImageReader::open(path)?;
    reader.set_format(image::ImageFormat::Png);
    let image = reader.decode()?;
    Ok([image.width(), image.height()])
}

/// An error and its sources, as one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let inner = error.to_string();
        if !text.ends_with(&inner) {
            text = format!("{text}: {inner}");
        }
        source = error.source();
    }
    text
}
