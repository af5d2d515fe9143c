"""Makes what is beside it with h5py, nibabel and scipy: a tiny made-up subject in NSD's layout (root/), what the paper's authors' steps make of it
(expected.safetensors), and single files in other forms (forms/). Nothing in it comes from NSD. Usage: python make.py"""

import gzip
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import scipy.io
from PIL import Image
from safetensors.numpy import save_file

HERE = Path(__file__).parent
ROOT, FORMS = HERE / "root", HERE / "forms"
SHAPE, TRIALS, SESSIONS, SUBJECT = (4, 3, 3), 750, 2, "subj02"
FUNCTIONAL = ROOT / f"nsddata/ppdata/{SUBJECT}/func1pt8mm"
BETAS = ROOT / f"nsddata_betas/ppdata/{SUBJECT}/func1pt8mm/betas_fithrf_GLMdenoise_RR"
AFFINE = np.array([[-1.8, 0.1, 0, 70], [0.1, 1.7, 0.3, -90], [0, -0.3, 1.7, -50], [0, 0, 0, 1]])
rng = np.random.default_rng(6)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, AFFINE)
    # gzip without the time of day, so that the files repeat
    path.write_bytes(gzip.compress(image.to_bytes(), mtime=0))


def save_mat(path, arrays, do_compression):
    scipy.io.savemat(path, arrays, do_compression=do_compression)
    with open(path, "r+b") as file:  # without the time of day
        file.write(b"MATLAB 5.0 MAT-file".ljust(116, b" "))


def volume(dtype, *voxels):
    """-1 outside cortex, 0 in it, labels where `voxels` say so."""
    values = np.where(cortex, 0, -1).astype(dtype)
    for voxel, label in voxels:
        values[voxel] = label
    return values


def session_betas(session):
    betas = rng.integers(-1200, 1200, SHAPE + (TRIALS,)) + 40 * session
    betas[0, 0, 0] = 0  # outside the brain
    betas[3, 2, 2] = 0  # in the set, without signal
    return betas.astype(np.int16)


def z_score(betas):
    """As the authors: time first, per cent, population standard deviation."""
    x = np.moveaxis(betas.astype(np.float32) / 300, -1, 0).reshape(TRIALS, -1)
    z = (x - x.mean(0, dtype=np.float64)) / (x.std(0, dtype=np.float64) + 1e-6)
    return np.nan_to_num(z)


cortex = np.ones(SHAPE, bool)
cortex[0] = False
write(FUNCTIONAL / "brainmask.nii.gz", np.ones(SHAPE, np.uint8))
rois = {
    "prf-visualrois": [((1, 0, 0), 1), ((1, 0, 1), 7)],
    # the first FFA-1 voxel is early visual, the second OFA voxel below threshold, label 4 is empty
    "floc-faces": [((1, 0, 1), 2), ((1, 1, 0), 1), ((1, 1, 1), 1), ((1, 1, 2), 2), ((2, 0, 0), 3), ((3, 2, 2), 3)],
    "floc-places": [((2, 1, 0), 1), ((2, 1, 1), 2)],
    "floc-bodies": [((2, 2, 0), 1)],
    "floc-words": [((2, 2, 1), 1), ((1, 1, 2), 2)],
    "HCP_MMP1": [((1, 2, 0), 8), ((1, 2, 1), 8), ((3, 0, 0), 9), ((3, 0, 1), 180), ((3, 0, 2), 3), ((1, 0, 0), 1)],
}
for name, voxels in rois.items():
    write(FUNCTIONAL / f"roi/{name}.nii.gz", volume(np.float32 if name == "floc-words" else np.int16, *voxels))
label = ROOT / f"nsddata/freesurfer/{SUBJECT}/label"
label.mkdir(parents=True, exist_ok=True)
(label / "floc-faces.mgz.ctab").write_text("0 Unknown\n1 OFA\n2 FFA-1\n3 FFA-2\n4 mTL-faces\n5 aTL-faces\n")
t = np.full(SHAPE, 4, np.float32)
t[1, 1, 1] = 2  # not above the threshold
t[3, 1, 1] = np.nan
for name in ["faces", "places", "bodies", "characters"]:
    write(FUNCTIONAL / f"floc_{name}tval.nii.gz", t)
ncsnr = rng.uniform(0.1, 0.9, SHAPE).astype(np.float32)
ncsnr[3, 0, 2] = np.nan
write(BETAS / "ncsnr.nii.gz", ncsnr)

# 40 images a subject, the first 8 shared; every image once, then at random.
own = np.stack([8 + 40 * s + np.arange(32) for s in range(8)])
subjectim = np.concatenate([np.tile(np.arange(8), (8, 1)), own], 1) + 1
subjectim = np.where(subjectim > 60, subjectim % 60 + 1, subjectim)
subjectim[1] = 1 + np.concatenate([np.arange(8), np.arange(20, 52)])
ordering = np.concatenate([np.arange(40), rng.integers(0, 40, SESSIONS * TRIALS - 40)]) + 1
ordering[ordering == 8] = 1  # the last shared image is never shown
design = {
    "masterordering": ordering[None].astype(float),
    "subjectim": subjectim.astype(float),
    "sharedix": np.arange(1, 9)[None].astype(float),
    "stimpattern": np.zeros((2, 3), bool),
    "note": "not a number",
}
path = ROOT / "nsddata/experiments/nsd/nsd_expdesign.mat"
path.parent.mkdir(parents=True, exist_ok=True)
save_mat(path, design, do_compression=True)

pixels = rng.integers(0, 256, (60, 20, 20, 3), dtype=np.uint8)
path = ROOT / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
path.parent.mkdir(parents=True, exist_ok=True)
with h5py.File(path, "w") as file:
    file["imgBrick"] = pixels

trials = []
for session in range(1, SESSIONS + 1):
    betas = session_betas(session)
    write(BETAS / f"betas_session{session:02}.nii.gz", betas)
    with h5py.File(BETAS / f"betas_session{session:02}.hdf5", "w") as file:
        file.create_dataset("betas", data=betas.T, chunks=(TRIALS, 1, 1, 1))
    trials.append(z_score(betas))

shown = subjectim[1][ordering - 1] - 1
images = np.unique(shown)
trials = np.concatenate(trials)
means = np.stack([trials[shown == image].mean(0) for image in images])
early = volume(int, *rois["prf-visualrois"]) > 0.5
parcels = volume(int, *rois["HCP_MMP1"])
mean_ncsnr = np.array([np.nanmean(ncsnr[parcels == p]) if np.isfinite(ncsnr[parcels == p]).any() else -1 for p in range(1, 181)])
best = np.argsort(-mean_ncsnr, kind="stable")[:3] + 1
inside = np.isin(parcels, best)
for name in list(rois)[1:5]:
    inside |= volume(int, *rois[name]) > 0.5
inside &= ~early
expected = {
    "betas": means[:, inside.reshape(-1)].astype(np.float32),
    "image_id": images.astype(np.int64),
    "repeats": np.array([(shown == image).sum() for image in images]).astype(np.int64),
    "voxel_ijk": np.argwhere(inside).astype(np.int64),
    "parcels": best.astype(np.int64),
    "images": np.stack([np.asarray(Image.fromarray(pixels[i]).resize((16, 16), Image.BICUBIC)) for i in images]),
}
save_file({name: np.ascontiguousarray(value) for name, value in expected.items()}, HERE / "expected.safetensors")

FORMS.mkdir(exist_ok=True)
tiny = np.arange(TRIALS * 4).reshape(TRIALS, 1, 2, 2).astype(np.int16)
for name, options, value in [
    ("chunked", {"chunks": (TRIALS, 1, 1, 1)}, tiny),
    ("packed", {"chunks": (25, 1, 2, 2), "compression": "gzip", "shuffle": True}, tiny),
    ("contiguous", {}, tiny),
    ("big_endian", {"chunks": (TRIALS, 1, 1, 1)}, tiny.astype(">i2")),
    ("real", {"chunks": (TRIALS, 1, 1, 1)}, (tiny / np.float32(300)).astype(np.float32)),
]:
    with h5py.File(FORMS / f"{name}.hdf5", "w") as file:
        file.create_dataset("betas", data=value, **options)
with h5py.File(FORMS / "latest.hdf5", "w", libver="latest") as file:
    file.create_dataset("betas", data=tiny, chunks=(TRIALS, 1, 1, 1))
numbers = {
    "double": np.array([[1.5, -2, 3], [4, 5, 6]]),
    "whole": np.array([[70000.0, 2, 3]]),
    "single": np.array([[0.25, -8]], np.float32),
    "cube": np.arange(8.0).reshape(2, 2, 2),
} | {f"{kind}{bits}": np.array([[1, 2], [3, 100]], f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
save_mat(FORMS / "plain.mat", numbers | {"text": "abc", "cell": np.array([[1, "a"]], object)}, do_compression=False)
save_mat(FORMS / "compressed.mat", numbers | {"logical": np.array([[True]]), "complex": np.array([[1j]])}, do_compression=True)
with h5py.File(FORMS / "design_v73.mat", "w", userblock_size=512) as file:
    for name in ("masterordering", "subjectim", "sharedix"):
        file[name] = design[name].T
text = b"MATLAB 7.3 MAT-file".ljust(116, b" ") + bytes(8) + b"\x00\x02IM"
with open(FORMS / "design_v73.mat", "r+b") as file:
    file.write(text)
surface = np.arange(10, dtype=">f4").reshape(5, 1, 1, 2)
nib.save(nib.MGHImage(surface.astype(np.float32), np.eye(4)), FORMS / "surface.mgh")
nib.save(nib.MGHImage(np.arange(12).reshape(2, 3, 2).astype(np.int32), np.eye(4)), FORMS / "labels.mgz")
Image.fromarray(np.tile(np.arange(0, 240, 12, dtype=np.uint8)[:, None, None], (1, 16, 3))).save(FORMS / "photograph.jpg", quality=95)
write(FORMS / "other_shape.nii.gz", np.ones((4, 3, 2), np.int16))
(FORMS / "tiny.nii").write_bytes(nib.Nifti1Image(tiny.T, np.eye(4)).to_bytes())
