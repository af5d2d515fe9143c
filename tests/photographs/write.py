"""Writes photographs as COCO has them, NSD's table of how they were cropped, and the pixels that Pillow finds in the crops.
Usage: python write.py FOLDER"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

folder = Path(sys.argv[1])
coco, table = folder / "coco", folder / "nsddata/experiments/nsd/nsd_stim_info_merged.csv"
table.parent.mkdir(parents=True)
rng = np.random.default_rng(3)


def photograph(width, height):
    """Shades, edges in all three channels, and some grain, so that chroma and luma both have detail."""
    y, x = np.mgrid[:height, :width]
    shades = np.stack([255 * x / width, 255 * y / height, 127 + 100 * np.sin((x + 2 * y) / 23)], -1)
    shades[height // 3 : height // 2, width // 4 : width // 2] = [200, 30, 60]
    return np.clip(shades + rng.normal(0, 4, shades.shape), 0, 255).astype(np.uint8)


# The crop is (top, bottom, left, right), fractions of the sides that are cut off; some leave parts of pixels.
photographs = [
    ("whole", 64, 64, (0, 0, 0, 0), "RGB", {"subsampling": 0}),
    ("landscape", 64, 43, (0, 0, 0.1671875, 0.1671875), "RGB", {"subsampling": 0}),
    ("portrait", 48, 65, (0.13, 0.13, 0, 0), "RGB", {"subsampling": 0}),
    ("uneven", 61, 47, (0.1, 0.3, 0.07, 0.29), "RGB", {"subsampling": 0, "progressive": True}),
    ("half_chroma", 64, 48, (0.05, 0, 0.2, 0), "RGB", {"subsampling": 1}),
    ("quarter_chroma", 64, 48, (0, 0.25, 0, 0.1), "RGB", {"subsampling": 2}),
    ("quarter_chroma_odd", 63, 47, (0, 0, 0.127, 0.127), "RGB", {"subsampling": 2}),
    ("grey", 50, 40, (0, 0, 0.1, 0.1), "L", {}),
]
rows, expected = [], []
for number, (name, width, height, crop, mode, options) in enumerate(photographs):
    path = coco / ("train2017" if number % 2 else "val2017") / f"{900 + number:012}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph(width, height)).convert(mode).save(path, quality=90, **options)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    top, bottom, left, right = crop
    kept = pixels[int(height * top) : int(height * (1 - bottom)), int(width * left) : int(width * (1 - right))]
    expected.append({"name": name, "height": kept.shape[0], "width": kept.shape[1], "pixels": kept.ravel().tolist()})
    rows.append([number, 900 + number, path.parent.name, str(crop), 0.0, number, False, False, False])
with open(table, "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["", "cocoId", "cocoSplit", "cropBox", "loss", "nsdId", "flagged", "BOLD5000", "shared1000"])
    writer.writerows(rows)
(folder / "expected.json").write_text(json.dumps(expected))
