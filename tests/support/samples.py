"""Samples of small synthetic cases, to draw."""

import numpy as np

from common.task import GLIOMA, Task
from train.figures.samples import Sample, sample_of


def volume(shape: tuple[int, int, int] = (9, 16, 12)) -> np.ndarray:
    """Four modalities of a brain that reaches from end to end but for the border."""
    image = np.zeros((4, *shape), np.float16)
    generator = np.random.default_rng(0)
    image[:, 1:-1, 1:-1, 1:-1] = generator.normal(size=(4, *(side - 2 for side in shape)))
    return image


def sample(case_id: str, dice: float, *, has_tumour: bool = True) -> Sample:
    label = np.zeros((9, 16, 12), np.uint8)
    if has_tumour:
        label[4, 3:8, 3:7] = 2
        label[4, 4:7, 4:6] = 3
    prediction = np.roll(label, 1, axis=2)
    return shown(label, prediction, case_id=case_id, dice=dice)


def shown(
    reference: np.ndarray,
    prediction: np.ndarray,
    image: np.ndarray | None = None,
    *,
    case_id: str = "a",
    dice: float = 1.0,
    task: Task = GLIOMA,
) -> Sample:
    return sample_of(
        case_id,
        dict.fromkeys(task.regions, dice),
        task,
        image=volume() if image is None else image,
        reference=reference,
        prediction=prediction,
    )
