import numpy as np
import pytest
import torch
from pydantic import ValidationError

from common.errors import ConfigError
from common.task import GLIOMA, TASKS, Task
from train.postprocess import PostprocessConfig, labels_of

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


def after(label: np.ndarray, spacing_mm: float = 1.0, **config: object) -> np.ndarray:
    return labels_of(logits_for(label), GLIOMA, PostprocessConfig(**config), spacing_mm)


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
    assert np.array_equal(after(label, 2.0, minimum_lesion_ml={"wt": 0.0021}), label)


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
