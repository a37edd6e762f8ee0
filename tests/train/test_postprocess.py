from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage

from common.case import prepare
from common.discovery import discover
from common.errors import ConfigError
from common.geometry import Geometry
from common.manifest import Manifest
from common.record import CaseRecord
from common.task import GLIOMA, TASKS, Task
from train.postprocess import PostprocessConfig, case_labels, labels_of

CORE, EDGE = 1, 2  # canonical labels of glioma: necrotic core, oedema
ENHANCING = 3


def logits_for(label: np.ndarray, task: Task = GLIOMA) -> torch.Tensor:
    """Logits of 1 where a region is and -1 elsewhere."""
    return torch.from_numpy(task.to_regions(label)).float() * 2 - 1


def two_lesions() -> np.ndarray:
    """A large lesion of all labels, and one of 8 enhancing voxels, which touch in corners alone."""
    label = np.zeros((12, 12, 12), np.uint8)
    label[1:7, 1:7, 1:7] = EDGE
    label[2:6, 2:6, 2:6] = CORE
    label[3:5, 3:5, 3:5] = ENHANCING
    label[9, 9, 9] = label[10, 10, 10] = ENHANCING
    return label


def after(label: np.ndarray, voxel_mm3: float = 1.0, **config: object) -> np.ndarray:
    return labels_of(logits_for(label), GLIOMA, PostprocessConfig(**config), voxel_mm3)


def test_the_defaults_are_the_sign_of_the_logits() -> None:
    logits = torch.randn(3, 9, 8, 7, generator=torch.Generator().manual_seed(0)) * 1e-7
    expected = GLIOMA.from_regions((logits > 0).numpy())
    assert np.array_equal(labels_of(logits, GLIOMA), expected)
    none = PostprocessConfig(threshold={"wt": 0.5}, minimum_ml={"et": 0})
    assert np.array_equal(labels_of(logits, GLIOMA, none), expected)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    probabilities = torch.linspace(0.05, 0.95, 19).reshape(1, 1, 1, 19).repeat(3, 1, 1, 1)
    config = PostprocessConfig(threshold={"et": threshold})
    label = labels_of(probabilities.logit(), GLIOMA, config)[0, 0]
    et = probabilities[0, 0, 0].numpy() > threshold + 1e-6
    assert np.array_equal(label == ENHANCING, et & (probabilities[0, 0, 0].numpy() > 0.5))


def test_small_lesions_of_a_region_are_removed() -> None:
    label = two_lesions()
    expected = np.where(np.indices(label.shape)[0] > 8, 0, label)
    assert np.array_equal(after(label, minimum_lesion_ml={"wt": 0.0021}), expected)
    assert np.array_equal(after(label, minimum_lesion_ml={"wt": 0.002}), label)  # 2 mm³ are kept
    # The same voxels are eight times as large with 2 mm a side.
    assert np.array_equal(after(label, 8.0, minimum_lesion_ml={"wt": 0.0021}), label)


def test_a_small_enhancing_tumour_becomes_the_label_around_it() -> None:
    label = two_lesions()
    for config in ({"minimum_ml": {"et": 0.011}}, {"minimum_lesion_ml": {"et": 0.009}}):
        assert np.array_equal(after(label, **config), np.where(label == ENHANCING, CORE, label))
    assert np.array_equal(after(label, minimum_ml={"et": 0.01}), label)  # 10 mm³ in all


def test_what_is_outside_the_whole_tumour_goes_with_it() -> None:
    assert not after(two_lesions(), minimum_ml={"wt": 1}).any()


@pytest.mark.parametrize("task", [task for task in TASKS.values() if "et" in task.regions])
def test_every_task_has_a_label_for_what_is_left(task: Task) -> None:
    """Without its enhancing tumour a core is still a core."""
    label = np.zeros((6, 6, 6), np.uint8)
    label[1:5, 1:5, 1:5] = task.labels["et"]
    config = PostprocessConfig(minimum_ml={"et": 1})
    found = labels_of(logits_for(label, task), task, config)
    masks = dict(zip(task.regions, task.to_regions(found), strict=True))
    assert not masks["et"].any()
    assert np.array_equal(masks["tc"], label > 0)


@pytest.mark.parametrize(
    "values",
    [{"threshold": {"wt": 0}}, {"threshold": {"wt": 1}}, {"minimum_ml": {"et": -1}}, {"et": 1}],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PostprocessConfig.model_validate(values)


def test_another_tasks_regions_are_refused() -> None:
    with pytest.raises(ConfigError, match="minimum_ml: ct is no region of task glioma"):
        PostprocessConfig(minimum_ml={"ct": 1}).check_regions(GLIOMA)


def record_of(
    folder: Path, write_coded_case: Callable, file_mm: tuple[float, ...], stored_mm: float
) -> CaseRecord:
    """Of a case of 36 mm a side that is brain everywhere."""
    shape = tuple(round(36 / mm) for mm in file_mm)
    brain = np.ones(shape, np.uint8)
    label = np.resize(np.uint8([0, 1, 2, 4]), shape)
    write_coded_case(folder, label, brain, Geometry(shape, file_mm, (0.0, 0.0, 0.0)))
    manifest = Manifest(crop=(16, 16, 16), spacing_mm=stored_mm)
    (files,) = discover(folder, manifest).cases
    return prepare(files, manifest).record


def depth_mm(shape: tuple[int, ...], spacing_mm: tuple[float, ...], radius_mm: float) -> np.ndarray:
    """How deep in a ball the voxels' centres lie; negative outside."""
    axes = [(np.arange(n) + 0.5) * mm - 17.3 for n, mm in zip(shape, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return radius_mm - np.sqrt(z**2 + y**2 + x**2)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("file_mm", [(1.0, 1.0, 1.0), (1.0, 0.5, 0.5), (3.0, 1.0, 1.0)])
def test_labels_of_interpolated_logits_are_nearer_than_labels_that_are_moved(
    file_mm: tuple[float, ...], write_coded_case: Callable, tmp_path: Path
) -> None:
    record = record_of(tmp_path / "case", write_coded_case, file_mm, 2.0)
    balls = [depth_mm(record.box.shape, (2.0,) * 3, radius) for radius in (11.0, 8.0, 5.0)]
    logits = torch.from_numpy(np.stack(balls)).float()
    found = case_labels(logits, record, GLIOMA, PostprocessConfig())
    assert np.array_equal(found.stored, labels_of(logits, GLIOMA))
    shape = record.geometry.shape
    places = [
        np.clip((np.arange(n) + 0.5) * mm / 2 - 0.5, 0, size - 1)
        for n, mm, size in zip(shape, file_mm, found.stored.shape, strict=True)
    ]
    moved = ndimage.map_coordinates(found.stored, np.meshgrid(*places, indexing="ij"), order=0)
    for radius, ours, theirs in zip(
        (11.0, 8.0, 5.0), GLIOMA.to_regions(found.file), GLIOMA.to_regions(moved), strict=True
    ):
        right = depth_mm(shape, file_mm, radius) > 0
        assert dice(ours, right) > max(0.95, dice(theirs, right))


def test_the_smallest_volumes_are_those_of_the_files_voxels(
    write_coded_case: Callable, tmp_path: Path
) -> None:
    record = record_of(tmp_path / "case", write_coded_case, (3.0, 1.0, 1.0), 1.0)
    label = np.zeros(record.box.shape, np.uint8)
    label[6:12, 4:8, 4:8] = ENHANCING  # two slices of 16 voxels, each of 3 mm³
    logits = logits_for(label)
    for least, kept in ((0.095, 32), (0.097, 0)):
        config = PostprocessConfig(minimum_ml={"wt": least})
        assert np.count_nonzero(case_labels(logits, record, GLIOMA, config).file) == kept


def test_files_of_the_stored_spacing_get_the_stored_labels(
    write_coded_case: Callable, tmp_path: Path
) -> None:
    record = record_of(tmp_path / "case", write_coded_case, (1.0, 1.0, 1.0), 1.0)
    logits = torch.randn(3, *record.box.shape, generator=torch.Generator().manual_seed(1))
    found = case_labels(logits, record, GLIOMA, PostprocessConfig(threshold={"tc": 0.7}))
    expected = labels_of(logits, GLIOMA, PostprocessConfig(threshold={"tc": 0.7}))
    assert np.array_equal(found.stored, expected)
    assert np.array_equal(found.file, record.to_file_grid(expected))
