"""Batches on the device, from worker processes that may die or get stuck."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from common import hints
from train.data.stream import FOREGROUND_BIT, Step, Stream
from train.data.workers import WorkerMonitor

STACKS_FILE = "stuck.txt"
"""In the run's folder: the stacks of all threads and processes when the loader was stuck."""
WRITING_SECONDS = 20.0  # to write them; the folder's disk may hang as the store's does
ENDING_SECONDS = 30.0  # for the main thread's wait to end once the workers are killed


@dataclass(frozen=True)
class Batch:
    """The samples of one step, augmented, on the device."""

    image: Tensor  # (B, M, D, H, W) float16, the foreground last; of slices (B, M, H, W)
    label: Tensor  # (B, D, H, W) uint8 canonical labels; of slices (B, H, W)
    case_ids: tuple[str, ...]  # the case of each sample
    epoch: int  # counted from 1
    last: bool  # whether the epoch ends with it
    planes: tuple[int, ...] = ()  # axial plane of each slice; empty for volumes


def batch_of(stream: Stream, step: Step, image: Tensor, label: Tensor) -> Batch:
    """A step's batch: image (B, M, D, H, W) and label (B, D, H, W), of slices with D = 1."""
    if stream.foreground:
        channel = (label >= FOREGROUND_BIT).unsqueeze(1).to(image.dtype)
        image, label = torch.cat([image, channel], dim=1), label % FOREGROUND_BIT
    planes = tuple(key.plane for key in step.keys if key.plane is not None)
    if planes:
        image, label = image.squeeze(2), label.squeeze(1)
    return Batch(image, label, step.case_ids, step.epoch, step.last, planes)


class Feed(Iterator[Batch]):
    """Batches without end, and the processes that read them."""

    def __init__(self, batches: Iterator[Batch], workers: WorkerMonitor) -> None:
        self._batches, self.workers = batches, workers

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            StoreError: a case cannot be read.
            LoaderError: a worker process died, or was ended by `workers.kill`.
        """
        with self.workers.translate_errors():
            return next(self._batches)


class StallDetector(Iterator[Batch]):
    """A feed's batches with a time limit for each; a context manager.

    A loader that is stuck ends the run with a LoaderError; the stacks of every thread of every
    process are written to the run's folder first.
    """

    def __init__(self, feed: Feed, seconds: float, run_dir: Path) -> None:
        self._feed, self._seconds, self._file = feed, seconds, run_dir / STACKS_FILE
        self._wait_began: float | None = None
        self._written = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall detector", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def __next__(self) -> Batch:
        self._wait_began = time.monotonic()
        try:
            return next(self._feed)
        finally:
            self._wait_began = None

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._seconds / 4)):
            began = self._wait_began
            if began is not None and time.monotonic() - began > self._seconds:
                self._end_wait(began)

    def _end_wait(self, began: float) -> None:
        """Write the stacks and end the workers, unless a batch has come since."""
        writing = threading.Thread(target=self._write_stacks, name="stacks", daemon=True)
        writing.start()
        writing.join(WRITING_SECONDS)
        samples = self._feed.workers.current_samples()
        busy = [f"worker {pid} is reading {sample}" for pid, sample in samples.items() if sample]
        reason = (
            f"the loader is stuck: no batch for {self._seconds:.0f} s; "
            f"{', '.join(busy) or 'no worker is reading a case'}. Check the store's disk. The "
            f"stacks {f'are in {self._file}' if self._written else 'could not be written'}; "
            f"resume with {hints.option('--resume')}"
        )
        if self._wait_began != began:
            return
        self._feed.workers.kill(reason)
        self._over.wait(ENDING_SECONDS)
        if self._wait_began == began:
            sys.stderr.write(f"error: {reason}; ending the workers did not end the wait\n")
            os._exit(1)

    def _write_stacks(self) -> None:
        try:
            workers = self._feed.workers.stacks()
            with self._file.open("w", encoding="utf-8") as file:
                file.write(f"No batch for {self._seconds:.0f} s.\n\nmain process:\n")
                file.flush()
                faulthandler.dump_traceback(file)
                file.write(f"\n{workers}\n")
            self._written = True
        except OSError:  # the error's message says so
            self._written = False
