//! A simulated brain: an ellipsoid whose outer shell is cortex, and the areas on it under NSD's names and numbers.
//!
//! Cortex of a hemisphere is laid out along a line from back to front; an area is an interval of it, in both hemispheres.

use super::nifti::Grid;
use crate::random::Random;
use std::f64::consts::TAU;

/// An area: label `label` of the volume `file`, on `from..to` of a hemisphere's cortex.
#[derive(Debug, Clone, Copy)]
pub struct Area {
    pub file: &'static str,
    pub label: u16,
    pub name: &'static str,
    pub from: f64,
    pub to: f64,
}

const fn area(file: &'static str, label: u16, name: &'static str, from: f64, to: f64) -> Area {
    Area { file, label, name, from, to }
}

/// The areas of localisers and retinotopy, with the labels of NSD's colour tables; OFA and hV4 overlap.
pub const AREAS: [Area; 24] = [
    area("prf-visualrois", 1, "V1v", 0.0, 0.02),
    area("prf-visualrois", 2, "V1d", 0.02, 0.04),
    area("prf-visualrois", 3, "V2v", 0.04, 0.06),
    area("prf-visualrois", 4, "V2d", 0.06, 0.08),
    area("prf-visualrois", 5, "V3v", 0.08, 0.1),
    area("prf-visualrois", 6, "V3d", 0.1, 0.12),
    area("prf-visualrois", 7, "hV4", 0.12, 0.14),
    area("floc-faces", 1, "OFA", 0.13, 0.16),
    area("floc-faces", 2, "FFA-1", 0.16, 0.19),
    area("floc-faces", 3, "FFA-2", 0.19, 0.22),
    area("floc-faces", 4, "mTL-faces", 0.22, 0.23),
    area("floc-faces", 5, "aTL-faces", 0.23, 0.24),
    area("floc-bodies", 1, "EBA", 0.24, 0.28),
    area("floc-bodies", 2, "FBA-1", 0.28, 0.3),
    area("floc-bodies", 3, "FBA-2", 0.3, 0.33),
    area("floc-bodies", 4, "mTL-bodies", 0.33, 0.34),
    area("floc-places", 1, "OPA", 0.34, 0.4),
    area("floc-places", 2, "PPA", 0.4, 0.43),
    area("floc-places", 3, "RSC", 0.43, 0.46),
    area("floc-words", 1, "OWFA", 0.46, 0.48),
    area("floc-words", 2, "VWFA-1", 0.48, 0.5),
    area("floc-words", 3, "VWFA-2", 0.5, 0.52),
    area("floc-words", 4, "mfs-words", 0.52, 0.54),
    area("floc-words", 5, "mTL-words", 0.54, 0.56),
];

/// Food-selective cortex, which has no volume in NSD.
pub const FOOD: Area = area("food", 1, "food", 0.57, 0.64);

/// Volumes of labels whose areas answer to nothing of their own, by name, labels' names, and where the labels lie: equal parts
/// of `from..to`.
const PARCELLATIONS: [(&str, &[&str], f64, f64); 3] = [
    ("nsdgeneral", &["nsdgeneral"], 0.0, 0.6),
    ("streams", &["early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal"], 0.0, 0.63),
    ("Kastner2015", &KASTNER, 0.0, 0.5),
];

const KASTNER: [&str; 25] = [
    "V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4", "VO1", "VO2", "PHC1", "PHC2", "TO2", "TO1", "LO2", "LO1", "V3B",
    "V3A", "IPS0", "IPS1", "IPS2", "IPS3", "IPS4", "IPS5", "SPL1", "FEF",
];

const ECCENTRICITIES: [&str; 5] = ["ecc0pt5", "ecc1", "ecc2", "ecc4", "ecc4+"];
const PARCELS: usize = 180;
/// A subject's brain. Voxels are numbered x fastest, as NIfTI and NSD's HDF5 files store them.
#[derive(Debug)]
pub struct Anatomy {
    pub subject: u8,
    pub grid: Grid,
    pub brain: Vec<bool>,
    /// Voxels of cortex, ascending.
    pub cortex: Vec<Place>,
}

/// Where a voxel of cortex lies.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub voxel: usize,
    pub is_left: bool,
    /// Along its hemisphere's cortex, in 0..1.
    pub at: f64,
}

/// A volume of labels: −1 outside cortex, 0 in cortex without a label.
#[derive(Debug)]
pub struct Labels {
    pub name: &'static str,
    /// Of every place of cortex.
    pub labels: Vec<u16>,
    /// Names by label, 0 first.
    pub names: Vec<String>,
}

impl Anatomy {
    /// `white_matter`: cortex lies beyond this part of the ellipsoid's radius.
    pub fn new(subject: u8, shape: [usize; 3], white_matter: f64) -> Self {
        let [x, y, z] = shape;
        let mut brain = vec![false; x * y * z];
        let mut sheet = Vec::new();
        for (voxel, brain) in brain.iter_mut().enumerate() {
            let centred = |at: usize, length: usize| 2.0 * (at as f64 + 0.5) / length as f64 - 1.0;
            let [i, j, k] = ijk(voxel, shape);
            let [i, j, k] = [centred(i, x), centred(j, y), centred(k, z)].map(|at| at / 0.95);
            let radius = (i * i + j * j + k * k).sqrt();
            *brain = radius <= 1.0;
            if *brain && radius > white_matter {
                // Slabs from back to front, each followed around.
                let slab = ((j + 1.0) * 6.0).floor();
                sheet.push((i < 0.0, slab, (k.atan2(i.abs()) / TAU), voxel));
            }
        }
        sheet.sort_by(|a, b| (a.0.cmp(&b.0)).then(a.1.total_cmp(&b.1)).then(a.2.total_cmp(&b.2)).then(a.3.cmp(&b.3)));
        let right = sheet.iter().take_while(|voxel| !voxel.0).count();
        let place = |(rank, &(is_left, _, _, voxel)): (usize, &(bool, f64, f64, usize))| {
            let (rank, length) = if is_left { (rank - right, sheet.len() - right) } else { (rank, right) };
            Place { voxel, is_left, at: rank as f64 / length as f64 }
        };
        let mut cortex: Vec<Place> = sheet.iter().enumerate().map(place).collect();
        cortex.sort_by_key(|place| place.voxel);
        Self { subject, grid: Grid { shape, affine: affine(shape, subject) }, brain, cortex }
    }

    /// The area of a place in the volume `file`, among those that the subject has.
    pub fn area(&self, place: Place, file: &str) -> Option<&'static Area> {
        let lacks = |area: &Area| match self.subject {
            1 => ["mTL-faces", "mTL-bodies"].contains(&area.name),
            2 => area.name == "FBA-1",
            _ => false,
        };
        AREAS.iter().find(|area| area.file == file && area.holds(place) && !lacks(area))
    }

    /// All label volumes of NSD's folder `roi`.
    pub fn volumes(&self) -> Vec<Labels> {
        let mut volumes = Vec::new();
        for file in ["prf-visualrois", "floc-faces", "floc-bodies", "floc-places", "floc-words"] {
            let named = AREAS.iter().filter(|area| area.file == file).map(|area| area.name);
            let label = |place: &Place| self.area(*place, file).map_or(0, |area| area.label);
            volumes.push(Labels::new(file, named, self.cortex.iter().map(label)));
        }
        let part = |place: &Place, from: f64, to: f64, parts: usize| match from <= place.at && place.at < to {
            true => 1 + ((place.at - from) / (to - from) * parts as f64) as u16,
            false => 0,
        };
        for (file, names, from, to) in PARCELLATIONS {
            let label = |place: &Place| part(place, from, to, names.len());
            volumes.push(Labels::new(file, names.iter().copied(), self.cortex.iter().map(label)));
        }
        let ring = |place: &Place| if place.at < 0.14 { 1 + (place.at * 250.0) as u16 % 5 } else { 0 };
        volumes.push(Labels::new("prf-eccrois", ECCENTRICITIES.into_iter(), self.cortex.iter().map(ring)));
        let parcels: Vec<String> = (1..=PARCELS).map(|parcel| format!("P{parcel:03}")).collect();
        let parcel = |place: &Place| part(place, 0.0, 1.0, PARCELS);
        volumes.push(Labels::new("HCP_MMP1", parcels.iter().map(String::as_str), self.cortex.iter().map(parcel)));
        volumes
    }

    /// A map's values at every voxel: `value` of a place of cortex, `other` elsewhere.
    pub fn fill<'a>(&'a self, other: f32, value: impl Fn(usize, &Place) -> f32 + 'a) -> impl Iterator<Item = f32> + 'a {
        let mut places = self.cortex.iter().enumerate().peekable();
        (0..self.brain.len()).map(move |voxel| match places.next_if(|(_, place)| place.voxel == voxel) {
            Some((number, place)) => value(number, place),
            None => other,
        })
    }

    /// The t map of the localiser `file`: its areas were drawn where t > 0, so that part of them lies below any higher threshold.
    pub fn t_map(&self, file: &str, seed: u64) -> Vec<f32> {
        let name = file.bytes().fold(0, |name, byte| name << 5 ^ u64::from(byte));
        let mut random = Random::new(seed, &[u64::from(self.subject), name]);
        let mut map: Vec<f32> =
            self.brain.iter().map(|&brain| if brain { random.normal() as f32 - 0.5 } else { 0.0 }).collect();
        for place in &self.cortex {
            if self.area(*place, file).is_some() {
                map[place.voxel] = random.uniform(0.2, 8.0) as f32;
            }
        }
        map
    }
}

impl Area {
    pub fn holds(&self, place: Place) -> bool {
        (self.from..self.to).contains(&place.at)
    }
}

impl Labels {
    fn new<'a>(name: &'static str, names: impl Iterator<Item = &'a str>, labels: impl Iterator<Item = u16>) -> Self {
        let names = ["Unknown"].into_iter().chain(names).map(str::to_owned).collect();
        Self { name, labels: labels.collect(), names }
    }

    /// The colour table: a line a label, number and name.
    pub fn ctab(&self) -> String {
        self.names.iter().enumerate().map(|(label, name)| format!("{label} {name}\n")).collect()
    }
}

/// Indices along x, y, z of a voxel.
pub fn ijk(voxel: usize, [x, y, _]: [usize; 3]) -> [usize; 3] {
    [voxel % x, voxel / x % y, voxel / x / y]
}

/// Voxels of 1.8 mm in a slice that is tilted, another one for every subject.
fn affine(shape: [usize; 3], subject: u8) -> [[f32; 4]; 3] {
    let (tilt, turn) = (0.05 + 0.02 * f64::from(subject), -0.03 * f64::from(subject));
    let (st, ct, sr, cr) = (tilt.sin(), tilt.cos(), turn.sin(), turn.cos());
    let rotation = [[cr, -sr * ct, sr * st], [sr, cr * ct, -cr * st], [0.0, st, ct]];
    rotation.map(|row| {
        let offset: f64 = row.iter().zip(shape).map(|(value, length)| -0.9 * value * (length - 1) as f64).sum();
        [1.8 * row[0], 1.8 * row[1], 1.8 * row[2], offset].map(|value| value as f32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_area_has_voxels_but_those_that_the_subject_lacks() {
        for subject in [1, 2, 3] {
            let anatomy = Anatomy::new(subject, [16, 18, 14], 0.7);
            let mut empty = Vec::new();
            for volume in anatomy.volumes() {
                assert_eq!(volume.labels.len(), anatomy.cortex.len());
                for (label, name) in volume.names.iter().enumerate().skip(1) {
                    if !volume.labels.contains(&(label as u16)) {
                        empty.push(name.clone());
                    }
                }
            }
            let expected: &[&str] = [&["mTL-faces", "mTL-bodies"][..], &["FBA-1"], &[]][usize::from(subject) - 1];
            assert_eq!(empty, expected, "subject {subject}");
        }
    }
}
