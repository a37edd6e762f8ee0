"""Scores of label volumes by others' implementations; runs in the environment that they need.

python benchmarks/reference_ways.py score CASES.npz OUT.json PUBLISHED_2023 PUBLISHED_2024
python benchmarks/reference_ways.py time CASES.npz OUT.json PUBLISHED_2023

CASES.npz has NAME/reference, NAME/prediction, (D, H, W) labels of a post-treatment glioma, and
NAME/spacing_mm, (z, y, x). PUBLISHED_… are checkouts of the challenge's code of that year.
"""

import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stdout
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

REGIONS = {"wt": (1, 2, 3), "tc": (1, 3), "et": (3,), "netc": (1,), "snfh": (2,), "rc": (4,)}
PACKAGES = (
    "surface-distance",
    "monai",
    "panoptica",
    "brats-evaluation",
    "simpleitk",
    "scikit-image",
    "medpy",
    "connected-components-3d",
)
CHALLENGES_2024 = ("GLI", "SSA", "PED", "MEN", "MET", "MEN-RT")

Values = dict[str, Any]


def replaced(table: Any, old: float, new: float, inplace: bool = False) -> Any:
    """`DataFrame.replace` of a number, where some cells hold arrays."""
    found = table.map(lambda cell: new if np.isscalar(cell) and cell == old else cell)
    if inplace:
        table[:] = found
    return found


# The published code was written for older libraries, which had these names and did this.
vars(np).update(Inf=np.inf, NaN=np.nan)
pd.DataFrame.append = lambda self, other: pd.concat([self, other])
pd.DataFrame.replace = replaced


def surface_distance_of(reference: Any, prediction: Any, spacing_mm: Any) -> Values:
    import surface_distance as sd

    found = sd.compute_surface_distances(reference, prediction, spacing_mm)
    return {
        "hd95": sd.compute_robust_hausdorff(found, 95),
        "nsd": [sd.compute_surface_dice_at_tolerance(found, mm) for mm in (0.5, 1, 2)],
    }


def monai_of(reference: Any, prediction: Any, spacing_mm: Any) -> Values:
    import torch
    from monai import metrics

    a, b = (torch.from_numpy(mask.copy())[None, None].float() for mask in (prediction, reference))
    options = {"include_background": True, "spacing": tuple(spacing_mm)}
    nsd = [
        metrics.compute_surface_dice(a, b, [mm], use_subvoxels=True, **options).item()
        for mm in (0.5, 1.0, 2.0)
    ]
    border_hd95 = metrics.compute_hausdorff_distance(a, b, percentile=95, **options).item()
    return {"dice": metrics.compute_dice(a, b).item(), "nsd": nsd, "border_hd95": border_hd95}


def simpleitk_of(reference: Any, prediction: Any, _spacing_mm: Any) -> Values:
    import SimpleITK

    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    masks = (mask.astype(np.uint8) for mask in (prediction, reference))
    overlap.Execute(*map(SimpleITK.GetImageFromArray, masks))
    return {"dice": overlap.GetDiceCoefficient(), "missed": overlap.GetFalseNegativeError()}


def skimage_of(reference: Any, prediction: Any, _spacing_mm: Any) -> Values:
    from skimage.measure import label

    return {
        "components": [int(label(mask, connectivity=3).max()) for mask in (reference, prediction)]
    }


BY_MASK: dict[str, Callable[[Any, Any, Any], Values]] = {
    "surface_distance": surface_distance_of,
    "monai": monai_of,
    "simpleitk": simpleitk_of,
    "skimage": skimage_of,
}


def write_files(labels: Any, spacing_mm: Any) -> list[str]:
    """Reference and prediction as NIfTI files of the working folder."""
    names = ["reference.nii.gz", "prediction.nii.gz"]
    for name, volume in zip(names, labels, strict=True):
        affine = np.diag([*spacing_mm[::-1], 1.0])
        nib.save(nib.Nifti1Image(volume.T.astype(np.uint8), affine), name)
    return names


def brats_evaluation_of(files: list[str]) -> Values:
    from importlib.resources import as_file
    from importlib.resources import files as resources

    from brats_evaluation.evaluation import evaluate_single_exam
    from panoptica import Panoptica_Evaluator

    config = resources("brats_evaluation") / "configs" / "config_gli.yaml"
    with as_file(config) as path:
        evaluator = Panoptica_Evaluator.load_from_config(str(path))
    found = evaluate_single_exam(files[1], files[0], "case", evaluator)
    keys = ("tp", "fp", "fn", "sq_dsc", "sq_hd95", "sq_nsd")
    return {region: [found[region].get(key) for key in keys] for region in REGIONS}


@cache
def published(folder: str, module: str) -> Any:
    """A module of published code, with the copy of surface-distance that lies beside it."""
    installed = {n: sys.modules.pop(n) for n in list(sys.modules) if n.startswith("surface_dist")}
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(folder)
        for name in [n for n in sys.modules if n.startswith("surface_dist")]:
            del sys.modules[name]
        sys.modules.update(installed)


def published_of(folder: str, module: str, challenge: str, files: list[str]) -> Values:
    """A row for each region."""
    table = published(folder, module).get_LesionWiseResults(files[1], files[0], challenge)
    table = table[0] if isinstance(table, tuple) else table
    named = table.set_index("Labels").to_dict("index")
    return {region.lower(): [float(v) for v in row.values()] for region, row in named.items()}


def score(cases: Any, published_2023: str, published_2024: str) -> Values:
    found: Values = {}
    for name, reference, prediction, spacing_mm in each_case(cases):
        print(name, file=sys.stderr)
        masks = {
            region: [np.isin(labels, members) for labels in (reference, prediction)]
            for region, members in REGIONS.items()
        }
        values: Values = {
            way: {region: of(*pair, spacing_mm) for region, pair in masks.items()}
            for way, of in BY_MASK.items()
        }
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            files = write_files((reference, prediction), spacing_mm)
            values["brats2026"] = brats_evaluation_of(files)
            for challenge in ("GLI", "MET"):
                values[f"brats2023-{challenge.lower()}"] = published_of(
                    published_2023, "metrics", f"BraTS-{challenge}", files
                )
            # The code of 2024 takes seconds: every fifth case has all its challenges.
            for challenge in CHALLENGES_2024[: None if int(name.partition("-")[0]) % 5 == 0 else 1]:
                module = f"metrics_{challenge.replace('-', '_')}"
                values[f"brats2024-{challenge.lower()}"] = published_of(
                    published_2024, module, f"BraTS-{challenge}", files
                )
        found[name] = values
    return found


def measure(cases: Any, published_2023: str) -> Values:
    """Seconds of processor time of the published code of 2023, the best of three."""
    found = {}
    for name, reference, prediction, spacing_mm in each_case(cases):
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            files = write_files((reference, prediction), spacing_mm)
            times = []
            for _ in range(3):
                began = time.process_time()
                published_of(published_2023, "metrics", "BraTS-GLI", files)
                times.append(time.process_time() - began)
            found[name] = min(times)
    return found


def each_case(cases: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    for name in dict.fromkeys(key.rpartition("/")[0] for key in cases.files):
        yield (
            name,
            cases[f"{name}/reference"],
            cases[f"{name}/prediction"],
            tuple(cases[f"{name}/spacing_mm"].tolist()),
        )


def plain(value: Any) -> Any:
    """Nine digits of a number, and a word for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if value is None or isinstance(value, str):
        return value
    return float(f"{value:.9g}") if np.isfinite(value) else str(float(value))


def main() -> None:
    what, cases_file, out_file, *folders = sys.argv[1:]
    with np.load(cases_file) as cases, redirect_stdout(sys.stderr):
        values = (score if what == "score" else measure)(cases, *folders)
    versions = {package: version(package) for package in (*PACKAGES, "numpy", "scipy", "pandas")}
    Path(out_file).write_text(json.dumps({"versions": versions, "values": plain(values)}))


if __name__ == "__main__":
    main()
