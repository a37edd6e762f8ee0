"""Batches on the device, from either loader."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from common.errors import ConfigError
from train.stream import Stream

__all__ = ["Batch", "LoaderKind", "Stream", "open_feed"]

LoaderKind = Literal["dali", "torch"]


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Attributes:
        image: (B, M, D, H, W) float16, augmented, on the device.
        label: (B, D, H, W) uint8 canonical labels.
        case_ids: the cases in it.
        epoch: counted from 1.
        last: the epoch ends with it.
    """

    image: Tensor
    label: Tensor
    case_ids: tuple[str, ...]
    epoch: int
    last: bool


def open_feed(
    kind: LoaderKind, stream: Stream, device: torch.device, workers: int
) -> AbstractContextManager[Iterator[Batch]]:
    """The stream's batches, endlessly: epochs follow each other without a pause.

    Args:
        kind: `dali`, or `torch` where DALI cannot be installed; both give the same samples.
        stream: which samples.
        device: where batches go; DALI also augments there.
        workers: processes that read the store.

    Returns:
        A context manager; leaving it ends the workers. Its iterator raises StoreError where a case
        cannot be read.

    Raises:
        ConfigError: DALI is not installed, or shared memory is too small for the batches.
    """
    if kind == "torch":
        from train.torch_loader import torch_feed

        return torch_feed(stream, device, workers)
    try:
        from train.dali_loader import dali_feed
    except ImportError as error:
        raise ConfigError(
            f"loader=dali: DALI cannot be imported ({error}); install nvidia-dali-cuda120, or "
            "train with --set loader=torch, which gives the same samples more slowly"
        ) from error
    return dali_feed(stream, device, workers)
