"""The benchmark's sections, one after the other within a given time."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from rich.console import RenderableType

from common.console import err
from common.errors import ConfigError, FMNetError
from common.store import Store
from train.run import begin, fresh
from train.trainer import Session

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRY_NETWORK = "model.widths=[4,8,16]"
"""What a dry run makes of every preset's network, which then fits a dry run's crops."""


class Result(Protocol):
    """What a section measured."""

    def to_json(self) -> dict[str, Any]:
        """Everything, with raw timings."""

    def table(self) -> RenderableType:
        """For people: medians, ratios, and what bounds them."""


@runtime_checkable
class Pictured(Protocol):
    """A result that can also be drawn."""

    def figure(self) -> "Figure | None":
        """The picture; None where there is nothing to draw."""


@dataclass(frozen=True)
class Bench:
    """What a section measures with.

    Attributes:
        preset: the run that `pipeline` measures, or a YAML file; other sections say what they take.
        overrides: of the preset's keys, as `key=value`.
        device: where it is measured.
        store: where samples come from.
        dry: whether everything is only tried: tiny networks, the fewest repetitions, no figure that
            means anything. Sections then measure every row, whatever the time.
        until: when the section is to be over, on `time.monotonic`'s clock.
        tell: told what begins.
    """

    preset: str
    overrides: tuple[str, ...]
    device: torch.device
    store: Store
    dry: bool
    until: float
    tell: Callable[[str], None]

    def each(self, count: int) -> float:
        """Seconds for each of so many measurements still to come; 0 when dry, or late."""
        return 0.0 if self.dry else max(0.0, self.until - time.monotonic()) / count

    def late(self) -> bool:
        """Whether the section's time is over: it leaves out the rows that are left, and says so."""
        return not self.dry and time.monotonic() > self.until

    @contextmanager
    def begun(self, preset: str, *overrides: str, saved: bool = False) -> Iterator[Session]:
        """A run on this device and store, in a folder of its own that is gone afterwards.

        When dry, its network is tiny.

        Args:
            preset: a preset's name, or a YAML file.
            overrides: of its keys, as `key=value`.
            saved: whether its folder holds it, so that it can be opened again; that takes seconds.

        Raises:
            ConfigError: the configuration is not valid, or does not fit the store.
        """
        with TemporaryDirectory(prefix="fm-net-bench-") as folder:
            dry = (DRY_NETWORK,) if self.dry else ()
            changes = (f"device={self.device}", *dry, *overrides)
            make = begin if saved else fresh
            run_dir = Path(folder, "run")
            run_dir.mkdir()
            yield make(preset, changes, self.store, run_dir)


@dataclass(frozen=True)
class Section:
    """A part of the benchmark.

    Attributes:
        name: by which it is asked for; `PACKAGE.NAME` is its module, whose `measure` takes a Bench
            and returns a Result.
        title: over its table.
        share: of the time, relative to the other sections'.
        cpu: whether its figures mean something on a CPU.
        package: where its module is.
    """

    name: str
    title: str
    share: float
    cpu: bool = False
    package: str = "benchmarks.training"


SECTIONS = (
    # First what needs no loader: should one hang, the least is lost.
    Section("steps", "Ways of taking a step", share=6),
    Section("peers", "The step beside other networks", share=2),
    Section("limits", "The step beside what bounds it", share=1),
    Section("inference", "Whole volumes", share=2),
    Section("learning", "Learning on real cases", share=3),  # not last: its time may be left over
    Section("table1", "Table I: mixed precision and DALI", share=4),
    Section("pipeline", "Where a step's time goes", share=3, cpu=True),
)


def choose(sections: Sequence[Section], names: Sequence[str]) -> list[Section]:
    """The sections of these names, in their own order; all where there are no names.

    Raises:
        ConfigError: a name is not a section's.
    """
    known = [section.name for section in sections]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"{unknown[0]}: no such section; there are {', '.join(known)}")
    return [section for section in sections if not names or section.name in names]


def run_sections(
    sections: Sequence[Section],
    seconds: float,
    bench: Callable[[float], Bench],
    done: Callable[[Section, Result | FMNetError, float], None],
) -> None:
    """Measure sections one after the other; one that fails leaves the others as they are.

    Args:
        sections: in this order.
        seconds: for all together; what one leaves is the others'.
        bench: makes what a section measures with, from the time when it is to be over.
        done: told a section's result, or why there is none, and the seconds it took.
    """
    end = time.monotonic() + seconds
    for number, section in enumerate(sections):
        began = time.monotonic()
        shares = sum(other.share for other in sections[number:])
        until = began + max(0.0, end - began) * section.share / shares
        made = bench(until)
        module = import_module(f"{section.package}.{section.name}")
        try:
            result: Result | FMNetError = module.measure(made)
        except FMNetError as error:
            result = error
        except Exception as error:  # noqa: BLE001 - those after it are measured all the same
            err.print_exception()
            result = FMNetError(f"{type(error).__name__}: {error}")
        done(section, result, time.monotonic() - began)
        free(made.device)


def free(device: torch.device) -> None:
    """Give back what sessions held that are gone, those that refer to themselves too."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
