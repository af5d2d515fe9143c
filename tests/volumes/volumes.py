"""Volumes as nibabel writes and reads them.

volumes.py write DIR   writes volumes of many types and placements, and what they hold to DIR/expected.json
volumes.py read DIR    reads DIR/map.nii.gz and DIR/labels.nii.gz, which were written in the space of DIR/oblique.nii.gz
volumes.py encoder DIR writes an encoder with two planted clusters in the region `food`
volumes.py clusters DIR OUT   compares OUT with what was planted
"""
import json
import struct
import sys
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (5, 4, 3)
OBLIQUE = np.array([[1.7, 0.3, -0.1, -70.5], [-0.3, 1.7, 0.2, -90.25], [0.1, -0.15, 1.75, -40.0], [0, 0, 0, 1]])


def rigid(handedness=1):
    """A rotation about an axis off all planes, with voxels of three sizes."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = np.eye(3) + np.sin(0.7) * cross + (1 - np.cos(0.7)) * cross @ cross
    affine = np.eye(4)
    affine[:3, :3] = rotation * [1.5, 1.8, 2.0 * handedness]
    affine[:3, 3] = [10, -20, 30]
    return affine


def numbers(dtype):
    return (np.arange(60).reshape(SHAPE) * 3 - (0 if np.dtype(dtype).kind == "u" else 40)).astype(dtype)


def write(folder):
    volumes = {}

    def save(name, image, values, raw=None):
        if raw is None:
            nibabel.save(image, folder / name)
        else:
            (folder / name).write_bytes(raw)
        again = nibabel.load(folder / name)
        assert np.array_equal(again.get_fdata(), values, equal_nan=True), name
        volumes[name] = {"affine": again.affine.tolist(), "values": [float(v) for v in values.ravel()]}

    for dtype in ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"]:
        image = nibabel.Nifti1Image(numbers(dtype), OBLIQUE)
        save(f"{dtype}.nii", image, numbers(dtype).astype(float))
    big = nibabel.Nifti1Image(numbers("i2"), OBLIQUE, nibabel.Nifti1Header(endianness=">"))
    save("big_endian.nii.gz", big, numbers("i2").astype(float))
    # nibabel chooses slope and intercept itself when it saves; here they are put into the header of what it stored.
    raw = nibabel.Nifti1Image(numbers("i2"), OBLIQUE).to_bytes()
    scaled = raw[:112] + struct.pack("<2f", 0.5, 3) + raw[120:]
    save("scaled.nii", nibabel.Nifti1Image.from_bytes(scaled), numbers("i2") * 0.5 + 3, scaled)
    for name, handedness in [("qform.nii", 1), ("mirrored.nii", -1)]:
        placed = nibabel.Nifti1Image(numbers("f4"), None)
        placed.set_qform(rigid(handedness), 1)
        placed.set_sform(None, 0)
        save(name, placed, numbers("f4").astype(float))
    nowhere = nibabel.Nifti1Image(numbers("f4"), None)
    nowhere.header.set_zooms((1.5, 2, 3))
    nowhere.set_qform(None, 0)
    nowhere.set_sform(None, 0)
    save("nowhere.nii", nowhere, numbers("f4").astype(float))
    oblique = nibabel.Nifti1Image(numbers("i2"), None)
    oblique.set_qform(rigid(), 1)
    oblique.set_sform(OBLIQUE, 3)
    oblique.header.set_xyzt_units("mm", "sec")
    oblique.header["cal_max"] = 99
    save("oblique.nii.gz", oblique, numbers("i2").astype(float))
    # JSON has no NaN, so that what is written holds none.
    (folder / "expected.json").write_text(json.dumps(volumes))


def placed_as(image, reference):
    assert np.array_equal(image.affine, reference.affine)
    for of in ("get_qform", "get_sform"):
        (found, found_code), (expected, code) = (getattr(x, of)(coded=True) for x in (image, reference))
        assert found_code == code and np.array_equal(found, expected), of
    assert image.header.get_zooms() == reference.header.get_zooms()
    assert image.header.get_xyzt_units() == reference.header.get_xyzt_units()
    assert image.dataobj.slope == 1 and image.dataobj.inter == 0
    assert image.header["cal_max"] == 0


def read(folder):
    reference = nibabel.load(folder / "oblique.nii.gz")
    activation = nibabel.load(folder / "map.nii.gz")
    placed_as(activation, reference)
    expected = np.arange(60, dtype="f4").reshape(SHAPE) / np.float32(7)
    expected[1, 2, 0] = np.nan
    assert activation.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(activation.dataobj), expected, equal_nan=True)
    labels = nibabel.load(folder / "labels.nii.gz")
    placed_as(labels, reference)
    assert labels.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(labels.dataobj), np.arange(60).reshape(SHAPE) - 1)
    assert labels.header.get_intent()[0] == "label"


def planted():
    """Voxels of the region, and which of them are of the smaller cluster."""
    food = np.arange(48)
    return food, food % 5 < 2


def encoder(folder):
    random = np.random.default_rng(5)
    centres = random.normal(size=(2, 32))
    food, smaller = planted()
    weight = random.normal(size=(60, 32))
    weight[food] = centres[smaller.astype(int)] + 0.3 * weight[food]
    # In another order than the volume's.
    order = random.permutation(60)
    places = np.stack(np.unravel_index(order, SHAPE), 1)
    tensors = {"weight": weight.astype("<f4"), "bias": np.zeros(60, "<f4"), "voxel_ijk": places.astype("<i4")}
    header, data = {}, b""
    for name, tensor in tensors.items():
        end = len(data) + tensor.nbytes
        header[name] = {"dtype": {"f": "F32", "i": "I32"}[tensor.dtype.kind], "shape": tensor.shape, "data_offsets": [len(data), end]}
        data += tensor.tobytes()
    header = json.dumps(header).encode()
    (folder / "head.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    (folder / "config.json").write_text(json.dumps({"rois": {"food": food.tolist(), "other": list(range(48, 60))}}))
    grid = nibabel.Nifti1Image(np.ones(SHAPE, "i2"), OBLIQUE)
    nibabel.save(grid, folder / "voxels.nii.gz")
    np.save(folder / "places.npy", places)


def clusters(folder, out):
    image = nibabel.load(out / "clusters.nii.gz")
    assert np.array_equal(image.affine, nibabel.load(folder / "voxels.nii.gz").affine)
    food, smaller = planted()
    expected = np.zeros(SHAPE, int)
    expected[tuple(np.load(folder / "places.npy")[food].T)] = 1 + smaller
    assert np.array_equal(np.asarray(image.dataobj), expected)
    names = dict(line.split(" ", 1) for line in (out / "clusters.ctab").read_text().splitlines())
    assert names == {"1": "food/cluster:1", "2": "food/cluster:2"}
    report = json.loads((out / "clusters.json").read_text())
    assert report["k"] == 2 and set(report["held_out"]) == {"1", "2", "3"}
    assert report["clusters"] == {"food/cluster:1": food[~smaller].tolist(), "food/cluster:2": food[smaller].tolist()}


if __name__ == "__main__":
    {"write": write, "read": read, "encoder": encoder, "clusters": clusters}[sys.argv[1]](*map(Path, sys.argv[2:]))
