"""Which loader gives a run its batches."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Literal

import torch

from common import hints
from common.errors import ConfigError
from train.data.cache import CacheKind, shared_crops
from train.data.feed import Feed
from train.data.stream import Stream

LoaderKind = Literal["dali", "torch"]
"""DALI, or torch's where DALI cannot be installed; both give the same samples."""


@contextmanager
def open_feed(
    kind: LoaderKind, stream: Stream, device: torch.device, workers: int, cache: CacheKind = "none"
) -> Iterator[Feed]:
    """The stream's batches, endlessly: epochs follow each other without a pause. Main thread only.

    DALI also augments on the device. Leaving the context ends the worker processes.

    Raises:
        ConfigError: DALI is not installed; shared memory is too small for the batches, or memory
            for the cache; or the cache does not go with loader or windows.
        LoaderError: a worker process did not start.
    """
    check_cache(kind, stream, cache)
    with ExitStack() as stack:
        if cache == "ram":
            crops = stack.enter_context(shared_crops(stream.store, stream.case_ids))
            stream = replace(stream, cache=crops)
        if kind == "torch":
            from train.data.torch_loader import torch_feed

            yield stack.enter_context(torch_feed(stream, device, workers))
        else:
            try:
                from train.data.dali_loader import dali_feed
            except ImportError as error:
                raise ConfigError(
                    f"loader=dali: DALI cannot be imported ({error}); install nvidia-dali-cuda120, "
                    f"or train with {hints.settings('loader=torch')}, which gives the same "
                    "samples more slowly"
                ) from error
            feed = dali_feed(stream, device, workers, on_device=cache == "device")
            yield stack.enter_context(feed)


def check_cache(kind: LoaderKind, stream: Stream, cache: CacheKind) -> None:
    """Check that a loader can cache what a stream is cut from.

    Raises:
        ConfigError: it cannot.
    """
    if cache != "none" and stream.window != "crop":
        raise ConfigError(
            f"cache={cache} keeps crops, and window={stream.window} cuts others: take window=crop, "
            "or cache=none"
        )
    if cache == "device" and stream.foreground and stream.augment.modality_dropout.probability:
        raise ConfigError(
            "cache=device marks the foreground before an image is drawn that is taken away, so "
            "foreground_channel=true with augment.modality_dropout needs cache=ram or cache=none"
        )
    if cache == "device" and kind == "torch":
        raise ConfigError("cache=device needs loader=dali; loader=torch can take cache=ram")
