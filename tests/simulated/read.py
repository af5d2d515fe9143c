"""Reads a simulated subject with h5py, nibabel, scipy and numpy, and checks that files agree with each other and with what was planted.

    python read.py ROOT
"""
import csv, json, struct, sys
from pathlib import Path

import h5py, nibabel, numpy as np, scipy.io

TRIALS = 750


def truth(path):
    """The tensors of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    types = {"F32": "<f4", "I32": "<i4", "U8": "u1"}
    header = json.loads(data[8:8 + length])
    body = memoryview(data)[8 + length:]
    return {name: np.frombuffer(body[slice(*t["data_offsets"])], types[t["dtype"]]).reshape(t["shape"])
            for name, t in header.items() if name != "__metadata__"}


def volume(path):
    return nibabel.load(path)


def design(root):
    mat = root / "nsddata/experiments/nsd/nsd_expdesign.mat"
    assert {kind for _, _, kind in scipy.io.whosmat(mat)} == {"double"}
    mat = scipy.io.loadmat(mat)
    ordering, subjectim, shared = mat["masterordering"][0].astype(int), mat["subjectim"].astype(int), mat["sharedix"][0].astype(int)
    images = subjectim.shape[1]
    assert subjectim.shape[0] == 8 and len(ordering) == 3 * images
    assert (np.bincount(ordering, minlength=images + 1)[1:] == 3).all(), "every image three times"
    assert (subjectim[:, :len(shared)] == shared).all(), "shared images come first"
    assert mat["stimpattern"].sum() == len(ordering) and (mat["basiccnt"][:, -1] == images).all()
    with open(root / "nsddata/experiments/nsd/nsd_stim_info_merged.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["nsdId"]) for row in rows] == list(range(len(rows))) and len({row["cocoId"] for row in rows}) == len(rows)
    assert [i for i, row in enumerate(rows) if row["shared1000"] == "True"] == list(shared - 1)
    assert len(rows) == len(np.unique(subjectim)) == subjectim.max()
    for row in rows[::97]:
        assert len(eval(row["cropBox"])) == 4
        for subject in range(8):
            for trial in (int(row[f"subject{subject + 1}_rep{rep}"]) for rep in range(3)):
                assert (trial > 0) == (row[f"subject{subject + 1}"] == "1")
                assert trial == 0 or subjectim[subject, ordering[trial - 1] - 1] == int(row["nsdId"]) + 1
    return ordering, subjectim


def check_subject(root, folder, ordering, subjectim):
    name, subject = folder.name, int(folder.name[-2:])
    functional = folder / "func1pt8mm"
    brain = volume(functional / "brainmask.nii.gz")
    shape = brain.shape
    assert np.linalg.norm(brain.affine[0, 1:3]) > 0.05 and np.allclose(brain.header.get_zooms(), 1.8, atol=1e-5), "oblique, 1.8 mm"
    rois = {path.name[:-len(".nii.gz")]: volume(path) for path in (functional / "roi").glob("*.nii.gz")}
    for roi in rois.values():
        assert roi.shape == shape and np.array_equal(roi.affine, brain.affine)
    rois = {key: np.asarray(roi.dataobj) for key, roi in rois.items()}
    cortex = rois["nsdgeneral"] >= 0
    assert (np.asarray(brain.dataobj)[cortex] == 1).all()
    for key in [key for key in rois if "." not in key]:
        both, left, right = rois[key], rois["lh." + key], rois["rh." + key]
        assert both.min() == -1 and np.array_equal(both >= 0, cortex) and np.array_equal(np.maximum(left, right), both)
        table = dict(line.split() for line in (root / f"nsddata/freesurfer/{name}/label/{key}.mgz.ctab").read_text().splitlines())
        assert {str(label) for label in np.unique(both) if label >= 0} <= set(table), key
    for category in ["faces", "bodies", "places", "characters"]:
        t = volume(functional / f"floc_{category}tval.nii.gz").get_fdata()
        area = rois["floc-" + category.replace("characters", "words")] > 0
        assert (t[area] > 0).all() and 0 < (t[area] <= 2).mean() < 0.5
    food = np.load(root / f"food/food_s{subject}.npy")
    assert np.array_equal(volume(root / f"food/food_s{subject}.nii.gz").get_fdata() > 0.5, food)
    assert np.array_equal(np.load(root / f"food/subj_{subject}_food_mask.npy"), food[rois["nsdgeneral"] > -0.5])

    planted = truth(root / f"truth/{name}.safetensors")
    i, j, k = planted["voxel_ijk"].T
    assert cortex[i, j, k].all() and len(i) == cortex.sum()
    betas = root / f"nsddata_betas/ppdata/{name}/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    ncsnr = volume(betas / "ncsnr.nii.gz").get_fdata()[i, j, k]
    assert np.array_equal(ncsnr, planted["ncsnr"], equal_nan=True) and np.isnan(ncsnr).any()
    sums, times = {}, {}
    for path in sorted(betas.glob("betas_session*.hdf5")):
        session = int(path.name[13:15])
        with h5py.File(path) as file:
            data = file["betas"]
            assert list(file) == ["betas"] and data.shape == (TRIALS, *shape[::-1]) and data.dtype == np.int16
            assert data.chunks == (TRIALS, 1, 1, 1) and data.compression is None
            data = data[:].T
        series = path.with_name(path.name.replace(".hdf5", ".nii.gz"))
        if series.exists():
            series = volume(series)
            assert series.get_data_dtype() == np.int16 and np.array_equal(np.asarray(series.dataobj), data)
            assert np.array_equal(series.affine, brain.affine)
        assert (data[~(np.asarray(brain.dataobj) > 0)] == 0).all()
        x = data[i, j, k].astype(np.float64) / 300
        assert np.array_equal(x.std(1) == 0, np.isnan(ncsnr)), "voxels that never change"
        z = (x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + 1e-6)
        for trial in range(TRIALS):
            image = subjectim[subject - 1, ordering[(session - 1) * TRIALS + trial] - 1] - 1
            sums[image], times[image] = sums.get(image, 0) + z[:, trial], times.get(image, 0) + 1
    return planted, ncsnr, np.array([sums[image] for image in sums]), np.array([times[image] for image in sums]), list(sums)


def check_ncsnr(planted, ncsnr, sums, times):
    """Variance between means of three trials, less the noise's, is the signal's: it must come to what was planted."""
    three = sums[times == 3] / 3
    ceiling = np.var(three, axis=0) - (1 / (1 + ncsnr**2)) / 3
    expected = ncsnr**2 / (1 + ncsnr**2)
    fine = ncsnr > 0.7
    error = np.abs(ceiling - expected)[fine]
    assert fine.sum() > 100 and np.median(error) < 0.03, np.median(error)
    assert np.allclose(planted["noise_ceiling"][fine], 100 * ncsnr[fine]**2 / (ncsnr[fine]**2 + 1 / 3), rtol=1e-4)


def main():
    root = Path(sys.argv[1])
    ordering, subjectim = design(root)
    with h5py.File(root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5") as file:
        stimuli = file["imgBrick"]
        assert stimuli.shape[0] == subjectim.max() and stimuli.shape[1] == stimuli.shape[2] and stimuli.shape[3] == 3
        assert stimuli.dtype == np.uint8
        for folder in sorted((root / "nsddata/ppdata").iterdir()):
            planted, ncsnr, sums, times, images = check_subject(root, folder, ordering, subjectim)
            assert all(stimuli[image].std() > 0 for image in images[:50]), "every image that was shown is there"
            check_ncsnr(planted, ncsnr, sums, times)
            print(f"{folder.name}: {len(images)} images, {len(ncsnr)} voxels of cortex, repeats {np.bincount(times)[1:]}")


main()
