//! Volumes that are written lie where their reference lies; broken ones are refused.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use subject::volume::{Grid, Volume, VolumeError, write_labels, write_map};

const AFFINE: [[f32; 4]; 3] = [[1.75, 0.25, 0.0, -71.0], [-0.25, 1.75, 0.0, -90.5], [0.0, 0.0, 1.8, -40.0]];

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A plain map of 24 zeros with `bytes` at `offset` of its header.
    fn patched(&self, patches: &[(usize, &[u8])]) -> PathBuf {
        let path = self.path("patched.nii");
        write_map(&path, &grid(), &[0.5; 24]).unwrap();
        let mut file = std::fs::read(&path).unwrap();
        for (offset, bytes) in patches {
            file[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        std::fs::write(&path, file).unwrap();
        path
    }
}

fn grid() -> Grid {
    Grid::new([2, 3, 4], AFFINE).unwrap()
}

#[test]
fn values_and_place_are_read_back_as_written() {
    let place = Place::new();
    let mut map: Vec<f32> = (0..24).map(|at| at as f32 / 7.0).collect();
    map[5] = f32::NAN;
    let labels: Vec<i16> = (0..24).map(|at| at - 1).collect();
    for name in ["map.nii", "map.v2.nii.gz"] {
        write_map(&place.path(name), &grid(), &map).unwrap();
        let read = Volume::read(&place.path(name)).unwrap();
        assert_eq!(read.grid.affine(), grid().affine());
        assert!(read.values.iter().zip(&map).all(|(read, &map)| *read == f64::from(map) || map.is_nan()));
        assert!(read.values[5].is_nan());
        assert_eq!(read.get([1, 2, 3]), Some(f64::from(map[23])));
        assert_eq!(read.get([1, 3, 0]), None);

        // A map's grid serves for the next.
        write_labels(&place.path("labels.nii.gz"), &read.grid, &labels).unwrap();
        let again = Volume::read(&place.path("labels.nii.gz")).unwrap();
        assert_eq!(again.values, labels.iter().map(|&label| f64::from(label)).collect::<Vec<_>>());
        assert_eq!(again.grid.affine(), grid().affine());
        assert_eq!(Grid::read(&place.path("labels.nii.gz")).unwrap(), again.grid);
    }
}

#[test]
fn the_same_map_gives_the_same_bytes() {
    let place = Place::new();
    for name in ["a.nii.gz", "b.nii.gz"] {
        write_map(&place.path(name), &grid(), &[0.25; 24]).unwrap();
    }
    assert_eq!(std::fs::read(place.path("a.nii.gz")).unwrap(), std::fs::read(place.path("b.nii.gz")).unwrap());
}

#[test]
fn scattered_values_stand_at_their_voxels() {
    let grid = grid();
    let volume = grid.scatter(&[[1, 0, 0], [0, 2, 3]], &[7, 9], -1).unwrap();
    assert_eq!((volume[12], volume[11], volume.iter().sum::<i32>()), (7, 9, 16 - 22));
    let message = grid.scatter(&[[0, 3, 0]], &[1], 0).unwrap_err().to_string();
    assert!(message.contains("[0, 3, 0]") && message.contains("[2, 3, 4]"), "{message}");
}

#[test]
fn a_header_that_contradicts_itself_is_refused() {
    let place = Place::new();
    let read = |patches: &[(usize, &[u8])]| Volume::read(&place.patched(patches)).unwrap_err();
    assert!(matches!(read(&[(72, &16i16.to_le_bytes())]), VolumeError::Bits { bits: 16, expected: 32, .. }));
    assert!(matches!(read(&[(116, &f32::NAN.to_le_bytes())]), VolumeError::Intercept { .. }));
    let axes: &[u8] = &[4, 0, 2, 0, 3, 0, 2, 0, 2, 0];
    assert!(matches!(read(&[(40, axes)]), VolumeError::NotOneVolume { .. }));
    let placed_by_quaternion: (usize, &[u8]) = (252, &[1, 0, 0, 0]);
    assert!(matches!(read(&[placed_by_quaternion, (256, &1.5f32.to_le_bytes())]), VolumeError::Quaternion { .. }));
    let cut = place.patched(&[]);
    let file = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &file[..400]).unwrap();
    let error = Volume::read(&cut).unwrap_err();
    assert!(error.to_string().contains("patched.nii") && !error.is_io(), "{error}");
}

#[test]
fn an_unscaled_volume_may_have_any_slope_that_is_no_number() {
    let place = Place::new();
    let nan = f32::NAN.to_le_bytes();
    let unscaled = Volume::read(&place.patched(&[(112, &nan), (116, &nan)])).unwrap();
    assert_eq!(unscaled.values, [0.5; 24]);
    let scaled = Volume::read(&place.patched(&[(112, &4f32.to_le_bytes()), (116, &1f32.to_le_bytes())])).unwrap();
    assert_eq!(scaled.values, [3.0; 24]);
}

#[test]
fn what_cannot_be_written_is_refused_before_the_disk_is_touched() {
    let place = Place::new();
    assert!(matches!(write_map(&place.path("map.img"), &grid(), &[0.0; 24]), Err(VolumeError::Name { .. })));
    assert!(matches!(write_map(&place.path("map.nii"), &grid(), &[0.0; 23]), Err(VolumeError::Length { .. })));
    assert!(matches!(Grid::new([2, 0, 4], AFFINE), Err(VolumeError::Shape { .. })));
    assert!(matches!(Grid::new([2, 40_000, 4], AFFINE), Err(VolumeError::Shape { .. })));
    assert_eq!(std::fs::read_dir(place.0.path()).unwrap().count(), 0);
}
