//! Counts of the real dataset that others have published, for labs that have it: `NSD=/path/to/root cargo test --test real_nsd`. Where the variable is
//! not set, or a subject is not there, nothing is compared.
#![allow(clippy::unwrap_used)]

use subject::nsd::{Design, Layout, Roi, Subject};
use subject::volume::Grid;

/// Voxels along x, y, z of `func1pt8mm`, and voxels of nsdgeneral, by subject (NSD data manual; MindEye2).
const SUBJECTS: [([usize; 3], usize); 8] = [
    ([81, 104, 83], 15_724),
    ([82, 106, 84], 14_278),
    ([81, 106, 82], 15_226),
    ([85, 99, 80], 13_153),
    ([79, 97, 78], 13_039),
    ([85, 113, 83], 17_907),
    ([78, 95, 81], 12_682),
    ([80, 103, 78], 14_386),
];

/// Voxels of subject 1 by label volume and label (Brain Encoding Response Generator).
const SUBJECT_1: [(&str, &[(&str, usize)]); 6] = [
    (
        "prf-visualrois",
        &[("V1v", 594), ("V1d", 756), ("V2v", 834), ("V2d", 599), ("V3v", 646), ("V3d", 541), ("hV4", 687)],
    ),
    ("floc-faces", &[("OFA", 355), ("FFA-1", 484), ("FFA-2", 310), ("mTL-faces", 0)]),
    ("floc-bodies", &[("EBA", 2971), ("FBA-2", 430), ("mTL-bodies", 0)]),
    ("floc-places", &[("PPA", 1033), ("RSC", 566), ("OPA", 1611)]),
    ("floc-words", &[("OWFA", 464), ("VWFA-1", 773), ("VWFA-2", 505), ("mfs-words", 165)]),
    (
        "streams",
        &[
            ("early", 5917),
            ("midventral", 986),
            ("midlateral", 834),
            ("midparietal", 950),
            ("parietal", 3548),
            ("lateral", 7799),
            ("ventral", 7604),
        ],
    ),
];

fn root() -> Option<Layout> {
    let root = std::env::var_os("NSD");
    if root.is_none() {
        eprintln!("skipped: NSD does not name the dataset's root");
    }
    root.map(|root| Layout::new(std::path::PathBuf::from(root)))
}

#[test]
fn volumes_have_the_shapes_and_counts_that_others_found() {
    let Some(layout) = root() else { return };
    for (subject, (shape, nsdgeneral)) in Subject::all().zip(SUBJECTS) {
        if !layout.brainmask(subject).is_file() {
            eprintln!("skipped: {subject} is not there");
            continue;
        }
        assert_eq!(Grid::read(&layout.brainmask(subject)).unwrap().shape(), shape, "{subject}");
        let roi = Roi::read(&layout, subject, "nsdgeneral").unwrap();
        let count = (0..roi.volume.values.len()).filter(|&voxel| roi.is_labelled(voxel)).count();
        assert_eq!(count, nsdgeneral, "nsdgeneral of {subject}");
    }
    let first = Subject::new(1).unwrap();
    if !layout.brainmask(first).is_file() {
        return;
    }
    for (name, areas) in SUBJECT_1 {
        let roi = Roi::read(&layout, first, name).unwrap();
        for &(area, expected) in areas {
            let label = roi.labels.iter().find(|(_, known)| *known == area).map(|(&label, _)| label);
            let label = label.unwrap_or_else(|| panic!("{name} has no label {area}: {:?}", roi.labels));
            let count = (0..roi.volume.values.len()).filter(|&voxel| roi.label(voxel) == label).count();
            assert_eq!(count, expected, "{area} of {first}");
        }
    }
    let visual = Roi::read(&layout, first, "prf-visualrois").unwrap();
    let cortex = (0..visual.volume.values.len()).filter(|&voxel| visual.is_cortex(voxel)).count();
    assert_eq!(cortex, 107_104, "cortex of {first}");
}

#[test]
fn the_shared_images_that_all_eight_saw_are_907_and_three_times_515() {
    let Some(layout) = root() else { return };
    let design = Design::read(&layout.expdesign()).unwrap();
    assert_eq!(design.shared().len(), 1000);
    assert_eq!([1, 2, 3].map(|times| design.shared_and_seen(times).len()), [907, 766, 515]);
}
