//! Named regions of a subject: official label and t map above a threshold (Luo et al. 2023, section 4.1).

use crate::dataset::Region;
use crate::nsd::Roi;
use crate::volume::Volume;
use std::collections::BTreeMap;

/// The regions that an ROI volume names, over the voxels of the set: each label, the unions of numbered labels (FFA of FFA-1 and FFA-2),
/// and all labels under the volume's own name without `floc-`. `row`: of a position, if it is in the set.
pub fn of_roi(
    roi: &Roi,
    threshold: Option<(&Volume, f64)>,
    row: impl Fn(usize) -> Option<usize>,
) -> BTreeMap<String, Region> {
    let all = roi.name.strip_prefix("floc-").unwrap_or(&roi.name);
    let mut names: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for (&label, name) in &roi.labels {
        let mut own = vec![name.clone(), all.to_owned()];
        own.extend(
            numbered(name)
                .filter(|union| roi.labels.values().filter(|name| numbered(name) == Some(union)).count() > 1)
                .map(str::to_owned),
        );
        own.sort_unstable();
        own.dedup();
        names.insert(label, own);
    }
    let mut regions: BTreeMap<String, Region> =
        names.values().flatten().map(|name| (name.clone(), Region::default())).collect();
    for position in (0..roi.volume.values.len()).filter(|&position| roi.is_labelled(position)) {
        if threshold.is_some_and(|(map, above)| map.values[position] <= above || map.values[position].is_nan()) {
            continue;
        }
        for name in names.get(&roi.label(position)).into_iter().flatten() {
            let region = regions.entry(name.clone()).or_default();
            region.mask_voxels += 1;
            region.rows.extend(row(position));
        }
    }
    regions
}

/// `FFA` of `FFA-1`.
fn numbered(name: &str) -> Option<&str> {
    let (name, number) = name.rsplit_once('-')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
}
