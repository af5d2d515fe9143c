//! COCO's photographs against Pillow, with which NSD and the paper's authors read them: the crop is the same, and pixels differ by no more
//! than the decoders' rounding.

use end_to_end::{python, read_json, repository};
use std::process::Command;
use subject::nsd::{Layout, Stimuli};

#[test]
fn photographs_are_decoded_and_cropped_as_pillow_does() {
    let Some(python) = python::with_scientific_packages() else { return };
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let mut write = Command::new(python);
    write.arg(repository().join("tests/photographs/write.py")).arg(place.path());
    let wrote = write.output().expect("Python starts");
    assert!(wrote.status.success(), "{}", String::from_utf8_lossy(&wrote.stderr));
    let stimuli = Stimuli::coco(&Layout::new(place.path()), &place.path().join("coco")).expect("the table is read");
    let expected = read_json(&place.path().join("expected.json"));
    let expected = expected.as_array().expect("a list");
    assert_eq!(expected.len(), 8);
    for (id, expected) in (0..).zip(expected) {
        let name = &expected["name"];
        let image = stimuli.image(id).unwrap_or_else(|error| panic!("{name}: {error}"));
        let size = [&expected["height"], &expected["width"]].map(|side| side.as_u64().expect("a length") as usize);
        assert_eq!([image.height(), image.width()], size, "{name}");
        let pixels =
            expected["pixels"].as_array().expect("pixels").iter().map(|value| value.as_i64().expect("a value"));
        let differences: Vec<i64> =
            image.pixels().iter().zip(pixels).map(|(&own, pillow)| (i64::from(own) - pillow).abs()).collect();
        let (most, sum) = (differences.iter().max().expect("pixels"), differences.iter().sum::<i64>());
        let mean = sum as f64 / differences.len() as f64;
        // Chroma of fewer samples is interpolated before colours are made of it, so that roundings add up.
        assert!(*most <= 3 && mean < 0.5, "{name}: a pixel differs by {most} of 255, the mean is {mean:.3}");
    }
}
