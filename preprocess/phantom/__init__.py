"""`fmnet-preprocess phantom`: a synthetic cohort with the files of a BraTS release."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import yaml

from common import nifti
from common.errors import ConfigError
from common.geometry import Geometry
from common.manifest import DEFAULT_NAME, Manifest
from common.task import MODALITIES, TASKS
from common.volume import Triple
from preprocess.phantom.image import TUMOUR_FREE, synthesise
from preprocess.phantom.lesions import CAVITY, ENHANCING, NECROSIS, OEDEMA
from preprocess.pool import available_cores, map_in_processes

Release = Literal["2021", "2023"]
"""How BraTS wrote gliomas: until 2021, and since 2023."""


class Style(NamedTuple):
    """How a release writes the cases of a task."""

    case_id: str
    """With the case's index to fill in; no patient has one of these."""
    endings: Mapping[str, str]
    """Modality, or `label`, to the end of a file's name."""
    labels: Mapping[int, str]
    """Tissue of a phantom to the task's label; other tissues have none."""


_UNTIL_2021 = {"flair": "_flair", "t1": "_t1", "t1ce": "_t1ce", "t2": "_t2", "label": "_seg"}
_SINCE_2023 = {"flair": "-t2f", "t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "label": "-seg"}
_GLIOMA = {NECROSIS: "ncr", OEDEMA: "ed", ENHANCING: "et"}
_AFTER_SURGERY = {NECROSIS: "netc", OEDEMA: "snfh", ENHANCING: "et", CAVITY: "rc"}
_PEDIATRIC = {NECROSIS: "netc", OEDEMA: "ed", ENHANCING: "et", CAVITY: "cc"}

GLIOMA_2021 = Style("BraTS2021_PHANTOM{:03d}", _UNTIL_2021, _GLIOMA)
STYLES = {
    "glioma": Style("BraTS-PHANTOM-{:05d}-000", _SINCE_2023, _GLIOMA),
    "post-treatment": Style("BraTS-GLI-9{:04d}-000", _SINCE_2023, _AFTER_SURGERY),
    "pediatric": Style("BraTS-PED-9{:04d}-000", _SINCE_2023, _PEDIATRIC),
    "metastases": Style("BraTS-MET-9{:04d}-000", _SINCE_2023, _AFTER_SURGERY),
    "meningioma-rt": Style(
        "BraTS-MEN-RT-9{:03d}-1",
        {"t1ce": "_t1c", "label": "_gtv"},
        {NECROSIS: "gtv", ENHANCING: "gtv"},
    ),
}
"""Task to its style since 2023."""

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
    release: Release = "2023",
    task: str = "glioma",
    on_case: Callable[[], None] = lambda: None,
) -> Path:
    """Write a cohort of phantoms and its manifest into a new folder, and return that.

    A case depends on its index, `seed`, `size` and `task` alone, so a larger cohort begins with the
    cases of a smaller one; the case of index `TUMOUR_FREE` has no tumour. `size` is (D, H, W) in
    voxels of 1 mm; one head fills it. `release` applies to the task glioma.

    Raises:
        ConfigError: the folder is not empty, there are too few cases or voxels, or no such task.
    """
    style = _style(task, release)
    _check_arguments(directory, cases, size)
    directory.mkdir(parents=True, exist_ok=True)
    convention = f"brats{release}" if task == "glioma" else next(iter(TASKS[task].conventions))
    plan = _Plan(directory, task, convention, style, seed, size)
    for _ in map_in_processes(_write_case, plan, range(cases), available_cores()):
        on_case()
    described = describe([style.case_id.format(index) for index in range(cases)], size)
    introduction = INTRODUCTION.format(
        task=task, release=release, seed=seed, cases=cases, size=",".join(map(str, size))
    )
    content = {"task": task} | described.model_dump(mode="json", exclude_unset=True)
    text = introduction + yaml.safe_dump(content, sort_keys=False)
    (directory / DEFAULT_NAME).write_text(text, "utf-8")
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


def _style(task: str, release: Release) -> Style:
    if task not in STYLES:
        raise ConfigError(f"--task {task}: no such task; there are {', '.join(STYLES)}")
    if release == "2023":
        return STYLES[task]
    if task != "glioma":
        raise ConfigError(f"--release {release}: only the task glioma has it; leave it out")
    return GLIOMA_2021


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
    convention: str
    style: Style
    seed: int
    size: Triple


def _write_case(plan: _Plan, index: int) -> None:
    task, style = TASKS[plan.task], plan.style
    phantom = synthesise(plan.seed, index, plan.size, cavity=CAVITY in style.labels)
    case_id = style.case_id.format(index)
    folder = plan.directory / case_id
    folder.mkdir()
    # BraTS places its 240 rows so: voxel (0, 0, 0) at (0, -239, 0), LPS.
    geometry = Geometry(plan.size, (1.0, 1.0, 1.0), (0.0, 1.0 - plan.size[1], 0.0))
    for modality in task.modalities:
        image = phantom.image[MODALITIES.index(modality)]
        nifti.write(folder / f"{case_id}{style.endings[modality]}.nii.gz", image, geometry)
    of_tissue = np.zeros(CAVITY + 1, np.uint8)
    for tissue, name in style.labels.items():
        of_tissue[tissue] = task.labels[name]
    values = task.from_canonical(of_tissue[phantom.label], plan.convention)
    nifti.write(folder / f"{case_id}{style.endings['label']}.nii.gz", values, geometry)
