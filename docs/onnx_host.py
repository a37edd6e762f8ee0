"""python onnx_host.py MODEL.onnx IMAGE.nii.gz … MASK.nii.gz: the images in the model's order."""

import json
import sys

import nibabel as nib
import numpy as np
import onnxruntime as ort

session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
how = json.loads(session.get_modelmeta().custom_metadata_map["fm_net"])
files, window = [nib.load(name) for name in sys.argv[2:-1]], np.array(how["window"])
affine, mm = files[0].affine, np.array(files[0].header.get_zooms())
fits = len(files) == len(how["modalities"]) and np.allclose(mm, how["spacing_mm"], atol=1e-3)
if not fits or not all(np.allclose(f.affine, affine) for f in files) or how["beyond_the_script"]:
    sys.exit(f"expected {how['modalities']} on one grid of {how['spacing_mm']} mm, and no other")

# To LPS, as (modality, z, y, x), and the box around the brain, at least a window a side.
own, lps = nib.io_orientation(affine), nib.orientations.axcodes2ornt("LPS")
turn, back = (nib.orientations.ornt_transform(*pair) for pair in ((own, lps), (lps, own)))
images = np.stack([nib.apply_orientation(np.asanyarray(f.dataobj), turn).T for f in files])
brain, grid = np.argwhere(images.any(axis=0)), np.array(images.shape[1:])
first = np.maximum(brain.min(axis=0) - how["margin"], 0)
stop = np.minimum(brain.max(axis=0) + 1 + how["margin"], grid)
size = np.maximum(stop - first, window)
start = np.clip((first + stop - size) // 2, 0, grid - size)
box = tuple(map(slice, start, start + size))

# Z-scores of each image's non-zero voxels, then logits, weighted over windows.
scores = np.zeros((len(images), *size), how["stored_type"])
for image, score in zip(images, scores, strict=True):
    values, part = image[image != 0].astype(np.float64), image[box].astype(np.float32)
    score[:] = np.where(part, (part - np.float32(values.mean())) * np.float32(1 / values.std()), 0)
gaps = -(-(size - window) // np.maximum(1, (window * (1 - how["overlap"])).astype(int)))
lines = [np.arange(g + 1) * n / max(g, 1) for n, g in zip(size - window, gaps, strict=True)]
total, weight = np.zeros((len(how["regions"]), *size), np.float32), np.zeros(size, np.float32)
weights = np.einsum("i,j,k", *how["weights"]).astype(np.float32)
for corner in np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3).round().astype(int):
    tile = (slice(None), *map(slice, corner, corner + window))
    feed = {"image": scores[tile][None].astype(np.float32)}
    empty = not feed["image"].any()
    total[tile] += weights * (how["background_logit"] if empty else session.run(None, feed)[0][0])
    weight[tile[1:]] += weights

# Labels, painted one over the other, and back to the file's grid.
inside = total / weight > np.float32(how["logit_thresholds"])[:, None, None, None]
label = np.zeros(grid, np.uint8)
for value, regions, covers in how["painting"]:
    where = inside[regions].all(axis=0)
    label[box][where if covers else where & (label[box] == 0)] = value
voxels = nib.apply_orientation(label.T, back)
nib.save(nib.Nifti1Image(voxels, affine, files[0].header, dtype=np.uint8), sys.argv[-1])
