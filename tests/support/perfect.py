"""Predictions that are right everywhere."""

import numpy as np
import torch
from numpy.typing import NDArray

from common.case import PreparedCase
from common.task import Task
from train.postprocess import PostprocessConfig, case_labels

SURE = 8.0


def perfect_mask(case: PreparedCase, task: Task) -> NDArray[np.uint8]:
    """A labelled case's mask, in its files' grid and values, from logits that give its label."""
    assert case.label is not None
    logits = torch.from_numpy(np.where(task.to_regions(case.label), SURE, -SURE))
    label = case_labels(logits, case.record, task, PostprocessConfig()).file
    return task.from_canonical(label, case.record.convention)
