//! Which image is shown when: NSD's experiment design and its tables (Allen et al. 2022, Methods; NSD data manual).
//!
//! Trial t of a subject shows the image number `masterordering[t]` of the subject's list `subjectim`, which begins with the shared
//! images. All ids in `nsd_expdesign.mat` are counted from 1, those in the CSV and the rows of the stimuli from 0.

use super::mat5::{self, Variable};
use crate::random::Random;
use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Trials of a session, always.
pub const TRIALS: usize = 750;
const REPEATS: usize = 3;
const SUBJECTS: usize = 8;
/// Runs of a session and slots of a run, of which 62 or 63 show an image.
const RUNS: usize = 12;
const SLOTS: usize = 75;

/// The design of an experiment of eight subjects; numbers count from 0.
#[derive(Debug)]
pub struct Design {
    /// Planned sessions.
    pub sessions: usize,
    /// Images that every subject is meant to see.
    pub shared: Vec<usize>,
    /// For every trial the place in the subject's list.
    pub ordering: Vec<usize>,
    /// For every subject its images: those shared first.
    pub subject_images: Vec<Vec<usize>>,
}

impl Design {
    /// Every subject sees 250 images a session on average, three times each; a tenth of them is shared.
    pub fn new(sessions: usize, seed: u64) -> Self {
        let each = sessions * TRIALS / REPEATS;
        let shared = each / 10;
        let mut random = Random::new(seed, &[u64::from_le_bytes(*b"designed")]);
        let mut images: Vec<usize> = (0..shared + SUBJECTS * (each - shared)).collect();
        random.shuffle(&mut images);
        let (shared_images, own) = images.split_at_mut(shared);
        shared_images.sort_unstable();
        let subject_images = own.chunks(each - shared).map(|own| [&*shared_images, own].concat()).collect();
        let mut ordering: Vec<usize> = (0..each * REPEATS).map(|trial| trial / REPEATS).collect();
        random.shuffle(&mut ordering);
        Self { sessions, shared: shared_images.to_vec(), ordering, subject_images }
    }

    /// Images of all subjects.
    pub fn images(&self) -> usize {
        self.shared.len() + self.subject_images.iter().map(|images| images.len() - self.shared.len()).sum::<usize>()
    }

    /// How many of the planned sessions a subject (counted from 1) came to, in NSD's proportions: 40, 40, 32, 30, 40, 32, 40, 30.
    pub fn attended(&self, subject: u8) -> usize {
        match subject {
            3 | 6 => (self.sessions * 4 / 5).max(1),
            4 | 8 => (self.sessions * 3 / 4).max(1),
            _ => self.sessions,
        }
    }

    /// The images of trials of a subject, counted from 1.
    pub fn shown(&self, subject: u8, trials: Range<usize>) -> Vec<usize> {
        let images = &self.subject_images[usize::from(subject) - 1];
        self.ordering[trials].iter().map(|&place| images[place]).collect()
    }

    /// Writes `nsd_expdesign.mat`.
    pub fn write_mat(&self, path: &Path) -> io::Result<()> {
        let one_based = |numbers: &[usize]| numbers.iter().map(|&number| number as u32 + 1).collect::<Vec<_>>();
        let each = self.subject_images[0].len();
        let columns = (0..each).flat_map(|place| self.subject_images.iter().map(move |images| images[place]));
        let slots = (0..self.sessions * RUNS * SLOTS).map(|at| {
            let (run, slot) = (at / self.sessions % RUNS, at / self.sessions / RUNS);
            u32::from(slot < 62 + run % 2)
        });
        let variable = |name, shape: &[usize], values| Variable { name, shape: shape.to_vec(), values };
        mat5::write(
            path,
            &[
                variable("basiccnt", &[REPEATS, self.sessions], self.basic_count()),
                variable("masterordering", &[1, self.ordering.len()], one_based(&self.ordering)),
                variable("sharedix", &[1, self.shared.len()], one_based(&self.shared)),
                variable("stimpattern", &[self.sessions, RUNS, SLOTS], slots.collect()),
                variable("subjectim", &[SUBJECTS, each], columns.map(|image| image as u32 + 1).collect()),
            ],
        )
    }

    /// For every session how many images have been shown at least once, twice, three times by its end.
    fn basic_count(&self) -> Vec<u32> {
        let mut times = vec![0_usize; self.subject_images[0].len()];
        let mut counts = [0_u32; REPEATS];
        let mut all = Vec::new();
        for session in self.ordering.chunks(TRIALS) {
            for &place in session {
                counts[times[place]] += 1;
                times[place] += 1;
            }
            all.extend(counts);
        }
        all
    }

    /// Writes `nsd_stim_info_merged.csv`.
    pub fn write_csv(&self, path: &Path) -> io::Result<()> {
        let mut trials = vec![[[0_usize; REPEATS]; SUBJECTS]; self.images()];
        let mut times = vec![0; self.subject_images[0].len()];
        for (trial, &place) in self.ordering.iter().enumerate() {
            for (subject, images) in self.subject_images.iter().enumerate() {
                trials[images[place]][subject][times[place]] = trial + 1;
            }
            times[place] += 1;
        }
        let shown = (1..=SUBJECTS).map(|subject| format!(",subject{subject}"));
        let when =
            (1..=SUBJECTS).flat_map(|subject| (0..REPEATS).map(move |rep| format!(",subject{subject}_rep{rep}")));
        let mut text = String::from(",cocoId,cocoSplit,cropBox,loss,nsdId,flagged,BOLD5000,shared1000");
        text.extend(shown.chain(when));
        for (image, trials) in trials.iter().enumerate() {
            let split = if image % 9 == 0 { "val2017" } else { "train2017" };
            // Landscape and portrait pictures are cut to squares: top, bottom, left, right.
            let crop = ["(0, 0, 0.1671875, 0.1671875)", "(0.125, 0.125, 0, 0)", "(0, 0, 0, 0.25)"][image % 3];
            let is_shared = self.shared.binary_search(&image).is_ok();
            let shared = if is_shared { "True" } else { "False" };
            let coco = coco_id(image);
            let _ = write!(text, "\n{image},{coco},{split},\"{crop}\",0.1708333333,{image},False,False,{shared}");
            text.extend(trials.iter().map(|trials| format!(",{}", u8::from(trials[0] > 0))));
            text.extend(trials.as_flattened().iter().map(|trial| format!(",{trial}")));
        }
        text.push('\n');
        std::fs::write(path, text)
    }

    /// Writes a subject's `responses.tsv`, the trials of the sessions up to `sessions`.
    pub fn write_responses(&self, path: &Path, subject: u8, sessions: usize) -> io::Result<()> {
        let mut text = String::from("SUBJECT\tSESSION\tRUN\tTRIAL\t73KID\t10KID\tTIME\tISOLD\tISCORRECT\tRT");
        let mut old = vec![false; self.subject_images[0].len()];
        let images = &self.subject_images[usize::from(subject) - 1];
        for (trial, &place) in self.ordering[..sessions * TRIALS].iter().enumerate() {
            let (session, within) = (trial / TRIALS + 1, trial % TRIALS);
            // Runs of 62 and 63 images in turn.
            let (pair, rest) = (within / 125, within % 125);
            let (run, number) = if rest < 62 { (2 * pair + 1, rest + 1) } else { (2 * pair + 2, rest - 61) };
            let days = session as f64 + 4.0 * number as f64 / 86_400.0;
            let (id, was_old) = (images[place] + 1, u8::from(old[place]));
            let _ = write!(
                text,
                "\n{subject}\t{session}\t{run}\t{number}\t{id}\t{}\t{days:.6}\t{was_old}\t1\t800",
                place + 1
            );
            old[place] = true;
        }
        text.push('\n');
        std::fs::write(path, text)
    }
}

/// COCO's id of an image: all different, in another order than NSD's.
pub fn coco_id(image: usize) -> usize {
    1 + (image * 305_419 + 12_345) % (1 << 19)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_sees_its_images_three_times_and_the_shared_ones_like_all() {
        let design = Design::new(4, 0);
        assert_eq!((design.images(), design.shared.len(), design.ordering.len()), (7300, 100, 3000));
        for subject in 1..=8 {
            let mut shown = design.shown(subject, 0..3000);
            shown.sort_unstable();
            assert!(shown.chunks(3).all(|three| three[0] == three[2]));
            shown.dedup();
            assert_eq!(shown.len(), 1000);
            assert!(design.shared.iter().all(|image| shown.binary_search(image).is_ok()));
        }
        assert_eq!([1, 3, 4, 8].map(|subject| design.attended(subject)), [4, 3, 3, 3]);
        assert_eq!(design.basic_count()[9..], [1000, 1000, 1000]);
    }

    #[test]
    fn at_nsds_size_the_numbers_are_nsds() {
        let design = Design::new(40, 0);
        assert_eq!((design.images(), design.shared.len(), design.ordering.len()), (73_000, 1000, 30_000));
        assert_eq!(
            (1..=8).map(|subject| design.attended(subject)).collect::<Vec<_>>(),
            [40, 40, 32, 30, 40, 32, 40, 30]
        );
    }
}
