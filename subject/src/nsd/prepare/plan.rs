//! What will be prepared: everything that is small is read here, and everything that is missing or wrong is found, all of it at once, before
//! the betas are.

use super::ceiling::noise_ceiling;
use super::parcels::{self, PARCELS};
use super::{Settings, regions, split};
use crate::dataset::{Region, Regions};
use crate::folder::FileRecord;
use crate::nsd::betas::Session;
use crate::nsd::layout::BetasFormat;
use crate::nsd::{Design, Layout, NsdError, Roi, Stimuli, Subject};
use crate::volume::{Grid, Volume};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const PARCELS_ROI: &str = "HCP_MMP1";
/// Volumes whose voxels at or above −0.5 are cortex, where they are there.
const CORTEX: [&str; 8] = [
    "prf-visualrois",
    "floc-bodies",
    "floc-faces",
    "floc-places",
    "floc-words",
    PARCELS_ROI,
    "Kastner2015",
    "nsdgeneral",
];
/// Most sessions that a folder's names can hold.
const MOST_SESSIONS: usize = 99;

/// A subject that is ready to be prepared.
#[derive(Debug)]
pub struct Plan {
    pub layout: Layout,
    pub subject: Subject,
    pub preparation: String,
    pub sessions: Vec<Session>,
    pub stimuli: Stimuli,
    pub image_size: usize,
    pub grid: Grid,
    /// The set, x slowest.
    pub voxels: Vec<[usize; 3]>,
    /// Of the set.
    pub ncsnr: Vec<f32>,
    pub regions: Regions,
    /// 73k ids counted from 0, ascending.
    pub images: Vec<u32>,
    /// Of every trial, in the order of the sessions.
    pub image_of_trial: Vec<u32>,
    pub repeats: Vec<u8>,
    /// 1 for held-out images.
    pub test: Vec<u8>,
    /// Every file that was read.
    pub inputs: Vec<FileRecord>,
}

impl Plan {
    /// Reads design, ROI volumes, t maps, noise ceilings, split and the headers of betas and images.
    ///
    /// # Errors
    /// [`NsdError::Unready`] with everything that was found.
    pub fn new(subject: Subject, settings: &Settings) -> Result<Self, NsdError> {
        let mut reader = Reader {
            layout: Layout::new(&settings.root),
            subject,
            settings,
            problems: Vec::new(),
            read: BTreeSet::new(),
        };
        let plan = reader.plan();
        match plan {
            Some(plan) if reader.problems.is_empty() => Ok(plan),
            _ => Err(NsdError::Unready(reader.problems)),
        }
    }

    /// Per cent, of the means of the held-out images.
    pub fn noise_ceiling(&self) -> Vec<f32> {
        let repeats: Vec<u8> =
            self.repeats.iter().zip(&self.test).filter(|&(_, &test)| test == 1).map(|(&repeats, _)| repeats).collect();
        self.ncsnr.iter().map(|&ncsnr| noise_ceiling(ncsnr, repeats.iter().copied())).collect()
    }

    pub fn voxel_ijk(&self) -> Vec<[i32; 3]> {
        self.voxels.iter().map(|voxel| voxel.map(|index| index as i32)).collect()
    }

    /// Of one prepared image.
    pub fn picture_bytes(&self) -> u64 {
        (3 * self.image_size * self.image_size) as u64
    }

    /// What there is to do: the betas' files and the prepared images.
    pub fn bytes(&self) -> u64 {
        let betas = self.sessions.iter().filter_map(|session| std::fs::metadata(&session.path).ok());
        betas.map(|metadata| metadata.len()).sum::<u64>() + self.images.len() as u64 * self.picture_bytes()
    }
}

/// Collects problems while it reads.
struct Reader<'a> {
    layout: Layout,
    subject: Subject,
    settings: &'a Settings,
    problems: Vec<NsdError>,
    read: BTreeSet<PathBuf>,
}

/// The voxel set before it is cut to the cortex.
struct Members {
    inside: Vec<bool>,
    rois: Vec<Roi>,
    food: Option<Volume>,
    parcels: Vec<u16>,
}

impl Reader<'_> {
    fn plan(&mut self) -> Option<Plan> {
        let settings = self.settings;
        self.check_settings();
        let grid = self.grid();
        let design = self.file(&self.layout.expdesign(), "it says which image was shown when", Design::read);
        let attended = design.as_ref().map_or(self.subject.sessions(), |design| design.attended(self.subject));
        let expected = settings.sessions.unwrap_or(attended);
        let sessions = self.sessions(expected, grid.as_ref());
        let stimuli = self.stimuli();
        let trials = design.as_ref().map(|design| design.shown(self.subject, expected));
        if let Some(found) = design.as_ref().map(Design::sessions).filter(|&found| found < expected) {
            self.unexpected(
                &self.layout.expdesign(),
                "the number of its sessions",
                found,
                format!("at least {expected}"),
            );
        }
        let held_out = design.as_ref().and_then(|design| self.keep(split::held_out(&settings.split, design)));
        if Path::new(&settings.split).is_file() {
            self.read.insert(settings.split.clone().into());
        }
        let images: BTreeSet<u32> = trials.iter().flatten().copied().collect();
        let held_out = held_out.map(|held_out| held_out.intersection(&images).copied().collect::<BTreeSet<u32>>());
        if let (Some(held_out), Some(_)) = (&held_out, &trials) {
            self.check_split(held_out, images.len());
        }
        if let Some(stimuli) = &stimuli {
            let missing: Vec<NsdError> = images.iter().filter_map(|&id| stimuli.check(id).err()).collect();
            // One photograph that is missing tells as much as thousands.
            self.problems.extend(missing.into_iter().take(3));
        }

        let grid = grid?;
        let ncsnr = self.volume(&self.layout.ncsnr(self.subject, &settings.betas), "it gives the noise ceiling", &grid);
        let members = self.members(&grid);
        let voxels = self.voxels(&grid, &members);
        let mut row_of = vec![None; grid.voxels()];
        for (row, &voxel) in voxels.iter().enumerate() {
            row_of[grid.position(voxel)?] = Some(row);
        }
        let regions = self.regions(&grid, &members, &row_of);
        let ncsnr = ncsnr?;
        let (images, trials, held_out) = (images.into_iter().collect::<Vec<_>>(), trials?, held_out?);
        let image_of_trial: Vec<u32> =
            trials.iter().map(|id| images.binary_search(id).map(|at| at as u32)).collect::<Result<_, _>>().ok()?;
        let mut repeats = vec![0u8; images.len()];
        image_of_trial.iter().for_each(|&image| repeats[image as usize] = repeats[image as usize].saturating_add(1));
        let split = Path::new(&settings.split).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Some(Plan {
            layout: self.layout.clone(),
            subject: self.subject,
            preparation: settings.betas.clone(),
            sessions,
            stimuli: stimuli?,
            image_size: settings.image_size,
            ncsnr: voxels.iter().map(|&voxel| ncsnr.get(voxel).unwrap_or(f64::NAN) as f32).collect(),
            voxels,
            regions: Regions {
                shape: grid.shape(),
                split,
                split_sha256: split::digest(&held_out),
                parcels: members.parcels,
                regions,
            },
            test: images.iter().map(|id| u8::from(held_out.contains(id))).collect(),
            grid,
            images,
            image_of_trial,
            repeats,
            inputs: self.inputs()?,
        })
    }

    /// The value, or a problem more.
    fn keep<T>(&mut self, result: Result<T, NsdError>) -> Option<T> {
        result.map_err(|problem| self.problems.push(problem)).ok()
    }

    fn unexpected(&mut self, path: &Path, what: &str, found: impl ToString, expected: impl Into<String>) {
        let (path, what) = (path.to_owned(), what.to_owned());
        self.problems.push(NsdError::Unexpected { path, what, found: found.to_string(), expected: expected.into() });
    }

    /// Reads a file that has to be there.
    fn file<T>(&mut self, path: &Path, purpose: &str, read: impl FnOnce(&Path) -> Result<T, NsdError>) -> Option<T> {
        if !path.is_file() {
            self.problems.push(NsdError::Missing { path: path.to_owned(), purpose: purpose.to_owned() });
            return None;
        }
        self.read.insert(path.to_owned());
        self.keep(read(path))
    }

    /// Reads a volume of the subject's shape.
    fn volume(&mut self, path: &Path, purpose: &str, grid: &Grid) -> Option<Volume> {
        let volume = self.file(path, purpose, |path| Ok(Volume::read(path)?))?;
        self.of_shape(&volume, grid).then_some(volume)
    }

    fn of_shape(&mut self, volume: &Volume, grid: &Grid) -> bool {
        let (found, expected) = (volume.grid.shape(), grid.shape());
        if found != expected {
            let expected = format!("{expected:?} as {}", grid.path().display());
            self.unexpected(volume.grid.path(), "its shape", format!("{found:?}"), expected);
        }
        found == expected
    }

    fn roi(&mut self, name: &str, purpose: &str, grid: &Grid) -> Option<Roi> {
        let (layout, subject) = (self.layout.clone(), self.subject);
        let roi = self.file(&layout.roi(subject, name), purpose, |_| Roi::read(&layout, subject, name))?;
        let table = layout.ctab(subject, name);
        if table.is_file() {
            self.read.insert(table);
        }
        self.of_shape(&roi.volume, grid).then_some(roi)
    }

    fn check_settings(&mut self) {
        let settings = self.settings;
        let wrong: [(bool, &'static str, String, &str); 4] = [
            (settings.image_size == 0, "image_size", settings.image_size.to_string(), "a number of pixels above 0"),
            (
                settings.voxels.is_empty(),
                "voxels",
                "empty".to_owned(),
                "members of the voxel set, for example floc-faces",
            ),
            (settings.t_above.is_nan(), "t_above", settings.t_above.to_string(), "a number"),
            (
                settings.sessions.is_some_and(|sessions| !(1..=MOST_SESSIONS).contains(&sessions)),
                "sessions",
                format!("{:?}", settings.sessions),
                "1 to 99",
            ),
        ];
        for (_, setting, found, expected) in wrong.into_iter().filter(|wrong| wrong.0) {
            self.problems.push(NsdError::Setting { setting, found, expected: expected.to_owned() });
        }
        if let Some(id) = settings.parcel_ids.iter().find(|id| !(1..=PARCELS).contains(id)) {
            let expected = format!("labels of {PARCELS_ROI}, 1 to {PARCELS}");
            self.problems.push(NsdError::Setting { setting: "parcel_ids", found: id.to_string(), expected });
        }
    }

    fn grid(&mut self) -> Option<Grid> {
        let path = self.layout.brainmask(self.subject);
        self.file(&path, "its header places the subject's volumes", |path| Ok(Grid::read(path)?))
    }

    /// The file of every session; HDF5 is read faster and preferred.
    fn sessions(&mut self, expected: usize, grid: Option<&Grid>) -> Vec<Session> {
        let (subject, preparation) = (self.subject, &self.settings.betas);
        let folder = self.layout.betas(subject, preparation);
        let session = |number| {
            [BetasFormat::Hdf5, BetasFormat::Nifti]
                .map(|format| Session { path: self.layout.session(subject, preparation, number, format), format })
                .into_iter()
                .find(|session| session.path.is_file())
        };
        let found: Vec<usize> = (1..=MOST_SESSIONS).filter(|&number| session(number).is_some()).collect();
        let sessions: Vec<Session> = (1..=expected).filter_map(session).collect();
        if found != (1..=expected).collect::<Vec<_>>() {
            let missing: Vec<usize> = (1..=expected).filter(|number| !found.contains(number)).collect();
            let surplus: Vec<usize> = found.iter().copied().filter(|&number| number > expected).collect();
            let mut expected = format!("1 to {expected}");
            for (numbers, are) in [(missing, "missing"), (surplus, "too many")] {
                if !numbers.is_empty() {
                    expected = format!("{expected}; {are}: {}", spans(&numbers));
                }
            }
            expected += "; say `sessions` to use another number";
            self.unexpected(&folder, "the sessions with betas_sessionNN.hdf5 or .nii.gz", spans(&found), expected);
        }
        if let Some(grid) = grid {
            let problems: Vec<NsdError> =
                sessions.iter().filter_map(|session| session.check(grid.shape()).err()).collect();
            self.problems.extend(problems);
        }
        sessions
    }

    fn stimuli(&mut self) -> Option<Stimuli> {
        match &self.settings.stimuli {
            None => {
                let path = self.layout.stimuli();
                match path.is_file() {
                    true => self.keep(Stimuli::shown(&path)),
                    false => {
                        let purpose = "it holds the images; or name a folder of COCO in `stimuli`".to_owned();
                        self.problems.push(NsdError::Missing { path, purpose });
                        None
                    }
                }
            }
            Some(folder) => {
                let (layout, folder) = (self.layout.clone(), folder.clone());
                self.file(&layout.stim_info(), "it says how the images were cropped", |_| {
                    Stimuli::coco(&layout, &folder)
                })
            }
        }
    }

    fn check_split(&mut self, held_out: &BTreeSet<u32>, images: usize) {
        let expected = match held_out.len() {
            0 => "at least one image that the subject saw",
            all if all == images => "some images left to fit to",
            _ => return,
        };
        let found = format!("`{}`, {} of the {images} images", self.settings.split, held_out.len());
        self.problems.push(NsdError::Setting { setting: "split", found, expected: expected.to_owned() });
    }

    /// The union of the set's members without what is excluded.
    fn members(&mut self, grid: &Grid) -> Members {
        let settings = self.settings;
        let mut members =
            Members { inside: vec![false; grid.voxels()], rois: Vec::new(), food: None, parcels: Vec::new() };
        for name in &settings.voxels {
            let own: Vec<bool> = match name.as_str() {
                "cortex" => self.cortex(grid),
                "food" => continue,
                "parcels" => {
                    let Some(roi) = self.roi(PARCELS_ROI, "its parcels are in the voxel set", grid) else { continue };
                    members.parcels = self.best_parcels();
                    let chosen: BTreeSet<i32> = members.parcels.iter().map(|&parcel| parcel.into()).collect();
                    (0..grid.voxels()).map(|position| chosen.contains(&roi.label(position))).collect()
                }
                name => {
                    let Some(roi) = self.roi(name, "it is a member of the voxel set", grid) else { continue };
                    let own = (0..grid.voxels()).map(|position| roi.is_labelled(position)).collect();
                    members.rois.push(roi);
                    own
                }
            };
            self.add(&mut members, name, &own);
        }
        let names_food = settings.voxels.iter().any(|name| name == "food");
        match &settings.food {
            Some(path) => {
                members.food = self.volume(path, "it is the food mask", grid);
                if let Some(food) = &members.food {
                    let own: Vec<bool> = food.values.iter().map(|&value| value > 0.5).collect();
                    self.add(&mut members, "food", &own);
                }
            }
            None if names_food => {
                let expected =
                    "a NIfTI volume, because `voxels` names food; NSD has no food mask of its own".to_owned();
                self.problems.push(NsdError::Setting { setting: "food", found: "not given".to_owned(), expected });
            }
            None => {}
        }
        for name in &settings.exclude {
            let Some(roi) = self.roi(name, "its voxels are excluded", grid) else { continue };
            members.inside.iter_mut().enumerate().for_each(|(position, inside)| *inside &= !roi.is_labelled(position));
            members.rois.retain(|member| member.name != *name);
        }
        members
    }

    fn add(&mut self, members: &mut Members, name: &str, own: &[bool]) {
        if !own.contains(&true) {
            let expected = "a voxel in every member; leave it out or check its file".to_owned();
            self.problems.push(NsdError::Setting {
                setting: "voxels",
                found: format!("`{name}`, which is empty"),
                expected,
            });
        }
        members.inside.iter_mut().zip(own).for_each(|(inside, own)| *inside |= own);
    }

    fn cortex(&mut self, grid: &Grid) -> Vec<bool> {
        let mut cortex = vec![false; grid.voxels()];
        for name in CORTEX {
            if self.layout.roi(self.subject, name).is_file()
                && let Some(roi) = self.roi(name, "it bounds the cortex", grid)
            {
                cortex.iter_mut().enumerate().for_each(|(position, cortex)| *cortex |= roi.is_cortex(position));
            }
        }
        cortex
    }

    fn best_parcels(&mut self) -> Vec<u16> {
        let settings = self.settings;
        if !settings.parcel_ids.is_empty() {
            return settings.parcel_ids.clone();
        }
        let files = |subject| {
            let (layout, betas) = (&self.layout, &settings.betas);
            (layout.ncsnr(subject, betas), layout.roi(subject, PARCELS_ROI))
        };
        let there = |&subject: &Subject| {
            let (ncsnr, parcels) = files(subject);
            ncsnr.is_file() && parcels.is_file()
        };
        let subjects: Vec<Subject> = match settings.ranked_by.is_empty() {
            true => Subject::all().filter(there).collect(),
            false => settings.ranked_by.clone(),
        };
        let files: Vec<_> = subjects.into_iter().map(files).collect();
        let mut rankings = Vec::new();
        for (ncsnr, labels) in files {
            let Some(labels) = self.file(&labels, "its parcels are ranked", |path| Ok(Volume::read(path)?)) else {
                continue;
            };
            let Some(ncsnr) = self.volume(&ncsnr, "it ranks the parcels", &labels.grid) else { continue };
            rankings.push(parcels::by_ncsnr(&ncsnr.values, |position| labels.values[position].round() as i32));
        }
        parcels::best(&rankings, settings.parcels)
    }

    /// The set, x slowest as the authors flatten volumes.
    fn voxels(&mut self, grid: &Grid, members: &Members) -> Vec<[usize; 3]> {
        let cortex = match members.food {
            // Labels lie in cortex by themselves.
            Some(_) => self.cortex(grid),
            None => vec![true; grid.voxels()],
        };
        let [_, height, depth] = grid.shape();
        let voxels: Vec<[usize; 3]> = (0..grid.voxels())
            .filter(|&position| members.inside[position] && cortex[position])
            .map(|position| [position / (height * depth), position / depth % height, position % depth])
            .collect();
        if voxels.is_empty() && self.problems.is_empty() {
            let expected = "voxels outside of `exclude`".to_owned();
            self.problems.push(NsdError::Setting { setting: "voxels", found: "an empty set".to_owned(), expected });
        }
        voxels
    }

    fn regions(&mut self, grid: &Grid, members: &Members, row_of: &[Option<usize>]) -> BTreeMap<String, Region> {
        let mut regions = BTreeMap::new();
        for roi in &members.rois {
            let map = roi.name.strip_prefix("floc-").map(|category| self.t_map(category, grid));
            let above = match &map {
                Some(None) => continue,
                Some(Some(map)) => Some((map, self.settings.t_above)),
                None => None,
            };
            let own = regions::of_roi(roi, above, |position| row_of[position]);
            if own.values().all(|region| region.mask_voxels == 0) {
                let path = self.layout.roi(self.subject, &roi.name);
                let expected = format!("at least one voxel with t > {}", self.settings.t_above);
                self.unexpected(&path, "the number of its labelled voxels above the threshold", 0, expected);
            }
            for (name, region) in own {
                let name = if regions.contains_key(&name) { format!("{}/{name}", roi.name) } else { name };
                regions.insert(name, region);
            }
        }
        if let Some(food) = &members.food {
            let positions = (0..grid.voxels()).filter(|&position| food.values[position] > 0.5);
            let mask_voxels = positions.clone().count();
            regions.insert(
                "food".to_owned(),
                Region { rows: positions.filter_map(|at| row_of[at]).collect(), mask_voxels },
            );
        }
        regions
    }

    /// The localiser's map. For words its volume is published under the name of its characters.
    fn t_map(&mut self, category: &str, grid: &Grid) -> Option<Volume> {
        let names: &[&str] = match category {
            "words" => &["word", "words", "characters"],
            other => &[other],
        };
        let paths: Vec<PathBuf> = names.iter().map(|name| self.layout.t_map(self.subject, name)).collect();
        let path = paths.iter().find(|path| path.is_file()).unwrap_or(&paths[0]);
        self.volume(path, "regions are thresholded on it", grid)
    }

    fn inputs(&mut self) -> Option<Vec<FileRecord>> {
        let read = std::mem::take(&mut self.read);
        let record = |path: &PathBuf| Ok(FileRecord::of(path, &self.layout.name(path))?);
        let records = read.iter().map(record).collect::<Result<Vec<_>, NsdError>>();
        self.keep(records)
    }
}

/// Ascending numbers for people: `1 to 3, 7`.
fn spans(numbers: &[usize]) -> String {
    let spans = numbers.chunk_by(|before, after| before + 1 == *after).filter_map(|span| match span {
        [] => None,
        [one] => Some(one.to_string()),
        [first, .., last] => Some(format!("{first} to {last}")),
    });
    match spans.collect::<Vec<_>>() {
        spans if spans.is_empty() => "none".to_owned(),
        spans => spans.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::spans;

    #[test]
    fn sessions_in_a_row_are_told_in_one_breath() {
        assert_eq!(spans(&[]), "none");
        assert_eq!(spans(&[7]), "7");
        assert_eq!(spans(&[1, 2, 3, 7, 9, 10]), "1 to 3, 7, 9 to 10");
    }
}
