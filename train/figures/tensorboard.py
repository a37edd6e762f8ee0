"""Curves and pictures of a run for TensorBoard, which are not worth the run."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard.writer import SummaryWriter

from common.console import err


class Curves:
    """Writes a run's curves; where the disk refuses them they end with a warning, and it goes on.

    What an earlier session wrote of later steps is hidden.
    """

    def __init__(self, run_dir: Path, first_step: int) -> None:
        self._folder = run_dir / "tensorboard"
        self._writer: SummaryWriter | None = None
        self._excepthook, threading.excepthook = threading.excepthook, self._hide_writers_error
        self._try(lambda: self._open(first_step))

    def _open(self, first_step: int) -> None:
        self._writer = SummaryWriter(str(self._folder), purge_step=first_step)

    def add(self, name: str, value: float, step: int) -> None:
        """A point of a curve."""
        self._write(lambda writer: writer.add_scalar(name, value, step))

    def add_image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """A picture (H, W, 3)."""
        self._write(lambda writer: writer.add_image(name, image, step, dataformats="HWC"))

    def flush(self) -> None:
        """Write what was added."""
        self._write(lambda writer: writer.flush())

    def close(self) -> None:
        """End the writer's thread."""
        self._write(lambda writer: writer.close())
        threading.excepthook = self._excepthook

    def _write(self, work: Callable[[SummaryWriter], None]) -> None:
        if (writer := self._writer) is not None:
            self._try(lambda: work(writer))

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            self._writer = None
            err.print(
                f"warning: {self._folder}: no more curves ({error.strerror or error}); "
                "metrics.jsonl has the numbers of every epoch",
                soft_wrap=True,
            )

    def _hide_writers_error(self, args: threading.ExceptHookArgs) -> None:
        """The thread that writes prints its traceback; its error reaches `_try` as well."""
        if type(args.thread).__name__ != "_AsyncWriterThread":
            self._excepthook(args)
