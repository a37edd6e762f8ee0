"""`fmnet-preprocess phantom`: a synthetic cohort with the files of a BraTS release."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from common import nifti
from common.dataset_json import NAME as DATASET_JSON
from common.errors import ConfigError
from common.files import write_json, write_text
from common.geometry import Geometry
from common.layouts import BY_NAMES, CHANNEL, LABEL, STACKED, Layout
from common.manifest import DEFAULT_NAME, Manifest
from common.pool import available_cores, map_in_processes
from common.task import MODALITIES, TASKS
from common.volume import Triple
from preprocess.phantom.image import TUMOUR_FREE, synthesise
from preprocess.phantom.lesions import CAVITY, ENHANCING, NECROSIS, OEDEMA

YEARS = {
    "brats2015": range(2012, 2016),
    "brats2021": range(2016, 2022),
    "brats2023": range(2023, 2026),
}
"""Layout to the years of its releases."""

RELEASES = {str(y): BY_NAMES[name] for name, years in YEARS.items() for y in years} | BY_NAMES
"""What `--release` may be."""

_AFTER_SURGERY = {NECROSIS: "netc", OEDEMA: "snfh", ENHANCING: "et", CAVITY: "rc"}
TISSUES = {
    "glioma": {NECROSIS: "ncr", OEDEMA: "ed", ENHANCING: "et"},
    "post-treatment": _AFTER_SURGERY,
    "pediatric": {NECROSIS: "netc", OEDEMA: "ed", ENHANCING: "et", CAVITY: "cc"},
    "metastases": _AFTER_SURGERY,
    "meningioma-rt": {NECROSIS: "gtv", ENHANCING: "gtv"},
}
"""Task to the label of each tissue of a phantom; other tissues have none."""

CASE_IDS = {
    "post-treatment": "BraTS-GLI-9{:04d}-000",
    "pediatric": "BraTS-PED-9{:04d}-000",
    "metastases": "BraTS-MET-9{:04d}-000",
}
"""Ids since 2023 of tasks other than the layout's; no patient has one of these."""

CONVENTIONS = {"nnunet": "msd", "bids": "brats2021"}
"""Label values of layouts that suggest none."""

CHANNELS = ("t1", "t1ce", "t2", "flair")
"""Modalities in the order that nnU-Net's own conversion of BraTS gives them."""

DATASETS: dict[str, dict[str, Any]] = {
    "nnunet": {
        "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"},
        "labels": {
            "background": 0,
            "whole tumor": [1, 2, 3],
            "tumor core": [2, 3],
            "enhancing tumor": [3],
        },
        "regions_class_order": [1, 2, 3],
        "file_ending": ".nii.gz",
    },
    "msd": {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {
            "0": "background",
            "1": "edema",
            "2": "non-enhancing tumor",
            "3": "enhancing tumour",
        },
    },
}
"""Layout to what its dataset.json says."""

LEAST_CASES = 3
LEAST_SIDE = 32
LARGEST_CROP = 128

INTRODUCTION = """\
# Synthetic cases: `fmnet-preprocess phantom` with --task {task} --release {release} --seed {seed}
# --cases {cases} --size {size}. All other values are the defaults.
"""


def make_cohort(  # noqa: PLR0913 - the command has as many options
    directory: Path,
    *,
    cases: int,
    seed: int,
    size: Triple,
    release: str | None = None,
    task: str | None = None,
    on_case: Callable[[], None] = lambda: None,
) -> Path:
    """Write a cohort of phantoms and its manifest into a new folder, and return that.

    A case depends on its index, `seed`, `size` and `task` alone, so a larger cohort begins with the
    cases of a smaller one; the case of index `TUMOUR_FREE` has no tumour. `size` is (D, H, W) in
    voxels of 1 mm; one head fills it. `release` is one of `RELEASES`, by default that since 2023,
    and `task` by default that of the release.

    Raises:
        ConfigError: the folder is not empty, there are too few cases or voxels, or no such release
            or task.
    """
    layout, task = _chosen(release, task)
    case_id = CASE_IDS.get(task, layout.case_id)
    _check_arguments(directory, cases, size)
    directory.mkdir(parents=True, exist_ok=True)
    plan = _Plan(directory, task, layout, case_id, seed, size)
    for _ in map_in_processes(_write_case, plan, range(cases), available_cores()):
        on_case()
    if layout.name in DATASETS:
        write_json(directory / DATASET_JSON, DATASETS[layout.name])
    described = describe([case_id.format(index) for index in range(cases)], size)
    introduction = INTRODUCTION.format(
        task=task, release=layout.name, seed=seed, cases=cases, size=",".join(map(str, size))
    )
    content = {"task": task} | described.model_dump(mode="json", exclude_unset=True)
    text = introduction + yaml.safe_dump(content, sort_keys=False)
    write_text(directory / DEFAULT_NAME, text)
    return directory


def describe(case_ids: list[str], size: Triple) -> Manifest:
    """The manifest of a cohort, except its task: its crop, and its splits as lists of cases.

    An eighth of the cases is val and a quarter test. The tumour-free case is in train: in val or
    test it would score Dice 0 for one wrong voxel, and hide the scores of the few other cases.
    """
    val, test = max(1, len(case_ids) // 8), max(1, len(case_ids) // 4)
    order = sorted(case_ids, key=lambda case_id: case_ids.index(case_id) != TUMOUR_FREE)
    train = len(case_ids) - val - test
    lists = {"train": order[:train], "val": order[train : train + val], "test": order[-test:]}
    return Manifest.model_validate(
        {
            "name": "phantoms",
            "crop": [min(LARGEST_CROP, 1 << (side.bit_length() - 1)) for side in size],
            "splits": {"kind": "lists"} | {name: sorted(lists[name]) for name in lists},
        }
    )


def _chosen(release: str | None, task: str | None) -> tuple[Layout, str]:
    """The layout and the task of these options, either of which may be left out."""
    if release is not None and release not in RELEASES:
        raise ConfigError(f"--release {release}: not known; there are {', '.join(RELEASES)}")
    if task is not None and task not in TISSUES:
        raise ConfigError(f"--task {task}: no such task; there are {', '.join(TISSUES)}")
    own = "brats-men-rt" if task == "meningioma-rt" else "brats2023"
    layout = RELEASES[release or own]
    task = task or layout.task
    if task != layout.task and (layout.name != "brats2023" or task not in CASE_IDS):
        raise ConfigError(f"--release {release}: has no task {task}; leave one of them out")
    return layout, task


def _check_arguments(directory: Path, cases: int, size: Triple) -> None:
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise ConfigError(f"{directory}: not empty; name a new folder, or empty this one")
    if cases < LEAST_CASES:
        raise ConfigError(f"{cases} case(s): at least {LEAST_CASES} are needed, one for each split")
    if min(size) < LEAST_SIDE:
        raise ConfigError(
            f"size {size}: at least {LEAST_SIDE} voxels a side are needed to show a brain"
        )


class _Plan(NamedTuple):
    """What the cases of a cohort share."""

    directory: Path
    task: str
    layout: Layout
    case_id: str
    seed: int
    size: Triple

    def path(self, index: int, role: str, part: str = "") -> Path:
        """The file of one case; its folder is made."""
        path = self.directory / (
            self.layout.file(self.case_id.format(index), role, part) + ".nii.gz"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _write_case(plan: _Plan, index: int) -> None:
    task, layout, tissues = TASKS[plan.task], plan.layout, TISSUES[plan.task]
    phantom = synthesise(plan.seed, index, plan.size, cavity=CAVITY in tissues)
    # BraTS places its 240 rows so: voxel (0, 0, 0) at (0, -239, 0), LPS.
    geometry = Geometry(plan.size, (1.0, 1.0, 1.0), (0.0, 1.0 - plan.size[1], 0.0))
    images = {m: phantom.image[MODALITIES.index(m)] for m in task.modalities}
    if STACKED in layout.roles:
        stacked = np.stack([images[modality] for modality in task.modalities])
        nifti.write(plan.path(index, STACKED), stacked, geometry)
    else:
        for modality, image in images.items():
            numbered = CHANNEL in layout.roles
            part = f"{CHANNELS.index(modality):04d}" if numbered else ""
            nifti.write(plan.path(index, modality, part), image, geometry)
    of_tissue = np.zeros(CAVITY + 1, np.uint8)
    for tissue, name in tissues.items():
        of_tissue[tissue] = task.labels[name]
    convention = CONVENTIONS.get(layout.name, layout.convention)
    if plan.task != layout.task or not convention:
        convention = next(iter(task.conventions))
    values = task.from_canonical(of_tissue[phantom.label], convention)
    nifti.write(plan.path(index, LABEL), values, geometry)
