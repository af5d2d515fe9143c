//! Simulated subjects in NSD's layout, formats and quirks, for tests, rehearsals and measurements. Nothing of NSD is in them.
//!
//! Voxels answer to images along planted directions of a backbone's features, with noise in a known proportion, so that what
//! preparing, fitting and clustering find can be compared with what was planted. NSD's quirks that are here: betas as
//! 16-bit integers ×300 whose level and gain drift from session to session; −1, 0 and labels in ROI volumes; areas that a
//! subject lacks though the colour table names them; voxels that never change; NaN in ncsnr; subjects who left early;
//! images seen less than three times; an oblique affine; unscaled volumes marked by a slope of 0 or NaN; ids counted from 1 and from 0.

mod anatomy;
mod betas;
mod design;
mod features;
mod hdf5;
mod mat5;
mod nifti;
mod npy;
mod render;
mod stimuli;
mod truth;
mod tuning;

use crate::error::{Error, Result};
use crate::folder::FileRecord;
use crate::image::RgbImage8;
use anatomy::{Anatomy, FOOD};
use betas::Sessions;
use design::{Design, TRIALS};
use features::Features;
use serde::Serialize;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use tuning::Tuning;

/// Voxels along x, y, z of NSD's subjects at 1.8 mm.
const NSD_SHAPES: [[usize; 3]; 8] = [
    [81, 104, 83],
    [82, 106, 84],
    [81, 106, 82],
    [85, 99, 80],
    [79, 97, 78],
    [85, 113, 83],
    [78, 95, 81],
    [80, 103, 78],
];

/// What to simulate.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// Of 1 to 8.
    pub subjects: Vec<u8>,
    /// NSD's own volumes, number of images and stimuli; small ones else.
    pub real_size: bool,
    /// Planned sessions of 750 trials; NSD has 40. Subjects 3, 4, 6 and 8 leave after part of them, as they did.
    pub planned: usize,
    /// Sessions that are written, if fewer than a subject came to.
    pub sessions: Option<usize>,
    /// Sessions whose files are missing, counted from 1.
    pub missing: Vec<usize>,
    /// Side of the stimuli, pixels.
    pub side: usize,
    pub images: Images,
    /// Files of the image tower whose features the voxels answer to, for the record.
    #[serde(skip)]
    pub backbone: Vec<FileRecord>,
    /// Write the betas as HDF5 and as NIfTI.
    pub formats: Formats,
    pub seed: u64,
}

/// Where stimuli come from.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Images {
    /// Faces, bodies, places, words and food.
    Drawn,
    /// PNG files of a folder, over and over.
    #[serde(serialize_with = "name_alone")]
    Folder(PathBuf),
}

/// In which forms betas are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Formats {
    Both,
    Hdf5,
    Nifti,
}

fn name_alone<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.file_name().unwrap_or_default().to_string_lossy())
}

impl Settings {
    /// A small subject: 4,032 voxels, 1,000 images of 32 pixels, 4 sessions.
    pub fn small() -> Self {
        Self {
            subjects: vec![1],
            real_size: false,
            planned: 4,
            sessions: None,
            missing: Vec::new(),
            side: 32,
            images: Images::Drawn,
            backbone: Vec::new(),
            formats: Formats::Both,
            seed: 0,
        }
    }

    /// NSD's sizes, of which four sessions are written as HDF5: 1 GB each.
    pub fn real_size() -> Self {
        Self { real_size: true, planned: 40, sessions: Some(4), side: 425, formats: Formats::Hdf5, ..Self::small() }
    }

    fn shape(&self, subject: u8) -> [usize; 3] {
        let number = usize::from(subject) - 1;
        if self.real_size { NSD_SHAPES[number] } else { [16 + number % 3, 18 + number % 2, 14 + number / 4] }
    }

    /// Of the radius; at real size it leaves about the 107,104 voxels of cortex that subject 1 has, and enough for every area otherwise.
    fn white_matter(&self) -> f64 {
        if self.real_size { 0.87 } else { 0.7 }
    }

    /// How many sessions of a subject there are.
    fn recorded(&self, design: &Design, subject: u8) -> usize {
        design.attended(subject).min(self.sessions.unwrap_or(usize::MAX))
    }

    fn check(&self) -> Result<()> {
        let wrong =
            |what, found: String, expected: &str| Err(Error::Parameter { what, found, expected: expected.to_owned() });
        let distinct: BTreeSet<u8> = self.subjects.iter().copied().collect();
        if distinct.is_empty() || distinct.len() < self.subjects.len() || !distinct.iter().all(|s| (1..=8).contains(s))
        {
            return wrong(
                "the list of subjects",
                format!("{:?}", self.subjects),
                "one or several of 1 to 8, each once",
            );
        }
        if !(1..=40).contains(&self.planned) {
            return wrong("the number of planned sessions", self.planned.to_string(), "1 to 40");
        }
        if self.sessions == Some(0) {
            return wrong("the number of sessions", "0".to_owned(), "at least 1");
        }
        if !(8..=1024).contains(&self.side) {
            return wrong("the side of the stimuli", self.side.to_string(), "8 to 1024 pixels");
        }
        Ok(())
    }
}

/// Writes the subjects of `settings` to the folder `out`, which appears whole or not at all; it is NSD's root, with what was planted in `truth`
/// and food masks, which NSD lacks, in `food`. Voxels answer to the features that `encode` makes of images, a unit vector of each.
///
/// # Errors
/// Something stands at `out`, `encode` fails or the images can't be read, a setting is out of range, or the disk fails.
pub fn write<E: From<Error>>(
    settings: &Settings,
    out: &Path,
    encode: impl FnMut(&[&RgbImage8]) -> Result<Vec<Vec<f32>>, E>,
) -> Result<(), E> {
    settings.check()?;
    if out.exists() {
        let source =
            io::Error::new(io::ErrorKind::AlreadyExists, "something is there; remove it or write somewhere else");
        return Err(Error::Write { path: out.to_owned(), source }.into());
    }
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = out.with_file_name(name);
    if partial.exists() {
        std::fs::remove_dir_all(&partial).map_err(written(&partial))?;
    }
    write_root(settings, &partial, encode)?;
    Ok(std::fs::rename(&partial, out).map_err(written(out))?)
}

fn write_root<E: From<Error>>(
    settings: &Settings,
    root: &Path,
    encode: impl FnMut(&[&RgbImage8]) -> Result<Vec<Vec<f32>>, E>,
) -> Result<(), E> {
    let design = Design::new(settings.planned, settings.seed);
    let experiment = folder(root, "nsddata/experiments/nsd")?;
    let put = |path: PathBuf, write: &dyn Fn(&Path) -> io::Result<()>| write(&path).map_err(written(&path));
    put(experiment.join("nsd_expdesign.mat"), &|path| design.write_mat(path))?;
    put(experiment.join("nsd_stim_info_merged.csv"), &|path| design.write_csv(path))?;

    let trials = |subject: u8| 0..TRIALS * settings.recorded(&design, subject);
    let seen: BTreeSet<usize> =
        settings.subjects.iter().flat_map(|&subject| design.shown(subject, trials(subject))).collect();
    let stimuli = stimuli::stimuli(settings, &design.shared, &seen)?;
    let shown = folder(root, "nsddata_stimuli/stimuli/nsd")?.join("nsd_stimuli.hdf5");
    stimuli::write(&shown, &stimuli, design.images(), settings.side)?;
    let mut features = Features::new(&stimuli, encode)?;
    drop(stimuli);
    truth::write_features(&folder(root, "truth")?, &features)?;

    for &subject in &settings.subjects {
        features.describe(&design.shown(subject, trials(subject)));
        write_subject(settings, root, &design, &features, subject)?;
    }
    Ok(())
}

fn write_subject(settings: &Settings, root: &Path, design: &Design, features: &Features, subject: u8) -> Result<()> {
    let anatomy = Anatomy::new(subject, settings.shape(subject), settings.white_matter());
    let tuning = Tuning::new(&anatomy, features, settings.seed);
    let tuned = betas::tuned(&anatomy, &tuning);
    write_volumes(settings, root, &anatomy)?;

    let recorded = settings.recorded(design, subject);
    let behaviour = folder(root, &format!("nsddata/ppdata/subj{subject:02}/behav"))?.join("responses.tsv");
    design.write_responses(&behaviour, subject, recorded).map_err(written(&behaviour))?;
    let folder_of_betas = format!("nsddata_betas/ppdata/subj{subject:02}/func1pt8mm/betas_fithrf_GLMdenoise_RR");
    let folder_of_betas = folder(root, &folder_of_betas)?;
    let ncsnr = folder_of_betas.join("ncsnr.nii.gz");
    betas::write_ncsnr(&ncsnr, &anatomy, &tuned).map_err(written(&ncsnr))?;
    let sessions = Sessions { anatomy: &anatomy, tuning: &tuning, features, seed: settings.seed };
    for session in (1..=recorded).filter(|session| !settings.missing.contains(session)) {
        let shown = design.shown(subject, (session - 1) * TRIALS..session * TRIALS);
        let hdf5 = folder_of_betas.join(format!("betas_session{session:02}.hdf5"));
        sessions.write_hdf5(&hdf5, session, &shown)?;
        if settings.formats != Formats::Hdf5 {
            sessions.write_nifti(&hdf5.with_extension("nii.gz"), &hdf5)?;
        }
        if settings.formats == Formats::Nifti {
            std::fs::remove_file(&hdf5).map_err(written(&hdf5))?;
        }
    }
    truth::write(&folder(root, "truth")?, settings, &anatomy, &tuned)
}

/// Writes brain mask, mean, label volumes with their colour tables, t maps, and food masks.
fn write_volumes(settings: &Settings, root: &Path, anatomy: &Anatomy) -> Result<()> {
    let (grid, subject) = (&anatomy.grid, anatomy.subject);
    let functional = folder(root, &format!("nsddata/ppdata/subj{subject:02}/func1pt8mm"))?;
    let put = |name: &str, element, values: &mut dyn Iterator<Item = f32>| {
        let path = functional.join(name);
        nifti::write(&path, grid, element, values).map_err(written(&path))
    };
    let mut brain = anatomy.brain.iter().map(|&brain| f32::from(u8::from(brain)));
    put("brainmask.nii.gz", nifti::Element::U8, &mut brain.clone())?;
    put("mean.nii.gz", nifti::Element::F32, &mut brain.by_ref().map(|brain| 900.0 * brain))?;
    for (map, file) in
        [("faces", "floc-faces"), ("bodies", "floc-bodies"), ("places", "floc-places"), ("characters", "floc-words")]
    {
        let values = anatomy.t_map(file, settings.seed);
        put(&format!("floc_{map}tval.nii.gz"), nifti::Element::F32, &mut values.into_iter())?;
    }
    folder(&functional, "roi")?;
    let tables = folder(root, &format!("nsddata/freesurfer/subj{subject:02}/label"))?;
    for volume in anatomy.volumes() {
        for (prefix, left) in [("", None), ("lh.", Some(true)), ("rh.", Some(false))] {
            let mut labels = anatomy.fill(-1.0, |number, place| match left.is_none_or(|left| left == place.is_left) {
                true => f32::from(volume.labels[number]),
                false => -1.0,
            });
            put(&format!("roi/{prefix}{}.nii.gz", volume.name), nifti::Element::I16, &mut labels)?;
        }
        let table = tables.join(format!("{}.mgz.ctab", volume.name));
        std::fs::write(&table, volume.ctab()).map_err(written(&table))?;
    }
    write_food(&folder(root, "food")?, anatomy).map_err(written(&root.join("food")))
}

/// Writes the food mask as a volume, and in both forms in which it is passed around: an array of the volume's shape, and one over the voxels
/// where `nsdgeneral` is above −0.5, which is cortex; the last axis is fastest in both.
fn write_food(food: &Path, anatomy: &Anatomy) -> io::Result<()> {
    let (subject, shape) = (anatomy.subject, anatomy.grid.shape);
    let map: Vec<f32> = anatomy.fill(0.0, |_, place| f32::from(u8::from(FOOD.holds(*place)))).collect();
    nifti::write(
        &food.join(format!("food_s{subject}.nii.gz")),
        &anatomy.grid,
        nifti::Element::U8,
        map.iter().copied(),
    )?;
    let [x, y, z] = shape;
    let voxel = |at: usize| at / (y * z) + x * (at / z % y + y * (at % z));
    let volume: Vec<bool> = (0..x * y * z).map(|at| map[voxel(at)] > 0.5).collect();
    npy::write_bools(&food.join(format!("food_s{subject}.npy")), &shape, &volume)?;
    let is_cortex: Vec<bool> = anatomy.fill(0.0, |_, _| 1.0).map(|value| value > 0.5).collect();
    let flat: Vec<bool> = (0..x * y * z).filter(|&at| is_cortex[voxel(at)]).map(|at| volume[at]).collect();
    npy::write_bools(&food.join(format!("subj_{subject}_food_mask.npy")), &[flat.len()], &flat)
}

fn folder(root: &Path, name: &str) -> Result<PathBuf> {
    let path = root.join(name);
    std::fs::create_dir_all(&path).map_err(written(&path))?;
    Ok(path)
}

fn written(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Write { path: path.to_owned(), source }
}
