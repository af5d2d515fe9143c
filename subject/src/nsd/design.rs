//! Which image was shown on which trial: NSD's `nsd_expdesign.mat`.
//!
//! Trial t of every subject shows the k-th of the subject's 10,000 images, k = `masterordering`[t]; `subjectim`[s, k] is its 73k id. All are
//! counted from 1 in the file and from 0 here.

use super::mat5::{self, Array};
use super::{IMAGES, NsdError, Subject, TRIALS};
use hdf5_reader::Hdf5File;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const SUBJECTS: usize = 8;
/// Sessions that NSD planned for everyone.
const PLANNED: usize = 40;

/// The experiment's design.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Design {
    /// Of every trial: which of the subject's images.
    ordering: Vec<usize>,
    /// Of every subject and every of its images: the 73k id.
    images: Vec<[u32; SUBJECTS]>,
    /// Images that all subjects were to see.
    shared: BTreeSet<u32>,
}

impl Design {
    /// Reads a MAT-file, of level 5 or of version 7.3.
    ///
    /// # Errors
    /// The file can't be read, or an array is missing, has a wrong shape or an id out of range.
    pub fn read(path: &Path) -> Result<Self, NsdError> {
        let is_hdf5 = Hdf5File::open(path).is_ok();
        let arrays = if is_hdf5 { of_hdf5(path)? } else { mat5::read(path)? };
        Self::of(&arrays).map_err(|(what, found, expected)| NsdError::Unexpected {
            path: path.to_owned(),
            what,
            found,
            expected,
        })
    }

    fn of(arrays: &BTreeMap<String, Array>) -> Result<Self, (String, String, String)> {
        let array = |name: &str| {
            let known = || arrays.keys().cloned().collect::<Vec<_>>().join(", ");
            arrays.get(name).ok_or_else(|| (format!("`{name}`"), "missing".to_owned(), format!("among {}", known())))
        };
        let (ordering, images, shared) = (array("masterordering")?, array("subjectim")?, array("sharedix")?);
        let &[SUBJECTS, each] = &images.shape[..] else {
            let expected = format!("{SUBJECTS} subjects by their images");
            return Err(("the shape of `subjectim`".to_owned(), format!("{:?}", images.shape), expected));
        };
        let ids = |name: &str, array: &Array, most: usize| {
            let id = |&value: &f64| {
                let whole = value >= 1.0 && value <= most as f64 && value.fract() == 0.0;
                whole.then(|| value as usize - 1).ok_or_else(|| {
                    (format!("an id in `{name}`"), value.to_string(), format!("a whole number from 1 to {most}"))
                })
            };
            array.values.iter().map(id).collect::<Result<Vec<_>, _>>()
        };
        let images: Vec<u32> = ids("subjectim", images, IMAGES)?.into_iter().map(|id| id as u32).collect();
        Ok(Self {
            ordering: ids("masterordering", ordering, each)?,
            images: images.as_chunks().0.to_vec(),
            shared: ids("sharedix", shared, IMAGES)?.into_iter().map(|id| id as u32).collect(),
        })
    }

    /// How many sessions were planned.
    pub fn sessions(&self) -> usize {
        self.ordering.len() / TRIALS
    }

    /// How many of them a subject took part in: NSD planned 40, and some of its subjects left early.
    pub fn attended(&self, subject: Subject) -> usize {
        (self.sessions() * subject.sessions() / PLANNED).max(1)
    }

    /// The 73k id of the image of every trial of the first `sessions` sessions, or of as many as there are.
    pub fn shown(&self, subject: Subject, sessions: usize) -> Vec<u32> {
        let trials = self.ordering.iter().take(sessions * TRIALS);
        trials.map(|&image| self.images[image][subject.index()]).collect()
    }

    /// The images that all subjects were to see.
    pub fn shared(&self) -> &BTreeSet<u32> {
        &self.shared
    }

    /// Of those, the ones that every subject saw at least `times` times in the sessions that it took part in.
    pub fn shared_and_seen(&self, times: usize) -> BTreeSet<u32> {
        let mut shared = self.shared.clone();
        for subject in Subject::all() {
            let mut seen = BTreeMap::new();
            self.shown(subject, self.attended(subject))
                .into_iter()
                .for_each(|image| *seen.entry(image).or_insert(0) += 1);
            shared.retain(|image| seen.get(image).is_some_and(|&count| count >= times));
        }
        shared
    }
}

/// Arrays of a MAT-file of version 7.3: HDF5 datasets whose axes are MATLAB's in reverse, so that the values have the same order.
fn of_hdf5(path: &Path) -> Result<BTreeMap<String, Array>, NsdError> {
    let failed = |source| NsdError::Hdf5 { path: path.to_owned(), source };
    let file = Hdf5File::open(path).map_err(failed)?;
    let mut arrays = BTreeMap::new();
    for name in ["masterordering", "subjectim", "sharedix"] {
        let dataset = file.dataset(name).map_err(failed)?;
        let shape = dataset.shape().iter().rev().map(|&side| side as usize).collect();
        let values = dataset.read_array::<f64>().map_err(failed)?.iter().copied().collect();
        arrays.insert(name.to_owned(), Array { shape, values });
    }
    Ok(arrays)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three images a subject; subject s has images s and s + 10 of its own and shares 72,999.
    fn arrays() -> BTreeMap<String, Array> {
        let subjectim = (0..3).flat_map(|image| {
            (0..8).map(move |subject| if image == 1 { 73_000.0 } else { f64::from(1 + subject + 10 * image) })
        });
        let ordering = (0..2 * TRIALS).map(|trial| if trial == TRIALS { 2.0 } else { 1.0 + 2.0 * (trial % 2) as f64 });
        [
            ("masterordering", vec![1, 2 * TRIALS], ordering.collect()),
            ("subjectim", vec![8, 3], subjectim.collect::<Vec<_>>()),
            ("sharedix", vec![1, 1], vec![73_000.0]),
        ]
        .map(|(name, shape, values)| (name.to_owned(), Array { shape, values }))
        .into()
    }

    #[test]
    fn a_trial_leads_over_the_ordering_to_the_73k_id() {
        let design = Design::of(&arrays()).unwrap();
        assert_eq!(design.sessions(), 2);
        let shown = design.shown(Subject::new(5).unwrap(), 2);
        assert_eq!(shown[..3], [4, 24, 4]);
        assert_eq!((shown.len(), shown[TRIALS]), (2 * TRIALS, 72_999));
        assert_eq!(design.shown(Subject::new(5).unwrap(), 1).len(), TRIALS);
        // Its first presentation begins the second session, when two of the eight had left.
        assert!(design.shared_and_seen(1).is_empty());
    }

    #[test]
    fn shared_images_are_those_that_everyone_saw_often_enough() {
        let mut arrays = arrays();
        arrays.get_mut("masterordering").unwrap().values[5] = 2.0;
        let design = Design::of(&arrays).unwrap();
        let attended: Vec<usize> = Subject::all().map(|subject| design.attended(subject)).collect();
        assert_eq!(attended, [2, 2, 1, 1, 2, 1, 2, 1]);
        assert_eq!(design.shared_and_seen(1), BTreeSet::from([72_999]));
        assert!(design.shared_and_seen(2).is_empty());
    }

    #[test]
    fn an_id_out_of_range_is_named() {
        for (name, at, value) in [("masterordering", 7, 4.0), ("subjectim", 0, 73_001.0), ("sharedix", 0, 0.5)] {
            let mut arrays = arrays();
            arrays.get_mut(name).unwrap().values[at] = value;
            let (what, found, _) = Design::of(&arrays).unwrap_err();
            assert!(what.contains(name) && found == value.to_string(), "{what}: {found}");
        }
        let mut arrays = arrays();
        arrays.remove("sharedix");
        assert_eq!(Design::of(&arrays).unwrap_err().0, "`sharedix`");
    }
}
