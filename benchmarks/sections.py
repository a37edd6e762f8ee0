"""The training benchmark's sections, one after the other within a given time."""

import gc
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import RenderableType
from rich.rule import Rule
from torch.utils import collect_env

from benchmarks.machine import machine
from benchmarks.synthetic import synthetic_store
from common.console import err, out
from common.errors import ConfigError, FMNetError
from common.files import write_json
from common.store import Store, local_copy
from train.run import begin, fresh, versions
from train.session import Session

DRY_CROP = 16
"""Side of synthetic crops in a dry run, in voxels."""
DRY_NETWORK = "model.widths=[4,8,16]"
"""A dry run's network; crops of 16 voxels leave it four planes at its deepest."""


@dataclass(frozen=True)
class Result:
    """What a section measured."""

    table: RenderableType
    raw: dict[str, Any]
    """For the JSON file, with raw timings."""


@dataclass(frozen=True)
class Bench:
    """What a section measures with."""

    device: torch.device
    store: Store
    until: float = 0.0
    """When the section's time is over, on `time.monotonic`'s clock."""
    dry: bool = False
    """Tiny networks, the fewest repetitions, every row whatever the time."""
    preset: str = "fm_net"
    """Of the section `pipeline`: a preset's name, or a YAML file."""
    overrides: tuple[str, ...] = ()
    """Of that preset's keys, as `key=value`."""

    def each(self, count: int) -> float:
        """Seconds for each of so many measurements still to come; 0 when dry, or late."""
        return 0.0 if self.dry else max(0.0, self.until - time.monotonic()) / count

    def late(self) -> bool:
        return not self.dry and time.monotonic() > self.until

    def tell(self, what: str) -> None:
        """Print what is measured next."""
        err.print(f"measuring {what} …")

    @contextmanager
    def begun(self, preset: str, *overrides: str, saved: bool = False) -> Iterator[Session]:
        """A run on this device and store, in a temporary folder; its network is tiny when dry.

        Only a `saved` run can be resumed; saving takes seconds.
        """
        dry = (DRY_NETWORK,) if self.dry else ()
        with TemporaryDirectory(prefix="fm-net-bench-") as folder:
            run_dir = Path(folder, "run")
            run_dir.mkdir()
            changes = (f"device={self.device}", *dry, *overrides)
            yield (begin if saved else fresh)(preset, changes, self.store, run_dir)


@dataclass(frozen=True)
class Section:
    """The module `benchmarks.NAME`, whose `measure` takes a Bench and returns a Result."""

    name: str
    title: str
    share: float
    """Of the time, relative to the other sections'."""
    cpu: bool = False
    """Whether it also runs on a CPU by default."""


SECTIONS = (
    Section("steps", "Ways of taking a step", share=5),
    Section("peers", "The step beside other networks", share=2),
    Section("limits", "The step beside its lower bound", share=1),
    Section("inference", "Whole volumes", share=2),
    Section("pipeline", "Where a sample's time goes", share=3, cpu=True),
)


def choose(names: Sequence[str], device: torch.device, *, dry: bool) -> list[Section]:
    """The named sections in their own order; without names, all that suit the device.

    Raises:
        ConfigError: a name is not a section's.
    """
    known = [section.name for section in SECTIONS]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"{unknown[0]}: no such section; there are {', '.join(known)}")
    if names:
        return [section for section in SECTIONS if section.name in names]
    return [section for section in SECTIONS if dry or device.type == "cuda" or section.cpu]


@dataclass
class Figures:
    """Everything that was measured, and the JSON file that is written after each section."""

    file: Path | None
    content: dict[str, Any] = field(default_factory=dict)

    def add(self, section: str, found: dict[str, Any]) -> None:
        self.content.setdefault("sections", {})[section] = found
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, self.content)


def run_sections(
    sections: Sequence[Section], minutes: float, make: Callable[[float], Bench], figures: Figures
) -> bool:
    """Measure and show sections one after the other; whether none failed.

    A section that fails does not stop the others; the time that one leaves goes to the next.
    `make` gets the time at which its section ends.
    """
    end, clean = time.monotonic() + 60 * minutes, True
    for number, section in enumerate(sections):
        began = time.monotonic()
        shares = sum(other.share for other in sections[number:])
        bench = make(began + max(0.0, end - began) * section.share / shares)
        try:
            result: Result = import_module(f"benchmarks.{section.name}").measure(bench)
        except Exception as error:  # noqa: BLE001 - the other sections are still measured
            why = str(error)
            if not isinstance(error, FMNetError):
                err.print_exception()
                why = f"{type(error).__name__}: {error}"
            err.print(f"✗ {section.name}: {why}", soft_wrap=True)
            found: dict[str, Any] = {"failed": why}
            clean = False
        else:
            out.print(Rule(section.title, align="left"), result.table, "")
            found = result.raw
        figures.add(section.name, {"took_seconds": time.monotonic() - began} | found)
        free(bench.device)
    return clean


@contextmanager
def prepared(  # noqa: PLR0913 - as many as the commands have options
    device: torch.device, path: str, crop: int, *, dry: bool, minutes: float, out_path: str | None
) -> Iterator[tuple[Store, Figures]]:
    """The store to measure with, synthetic where no path is given, and the figures to fill."""
    if dry:
        torch.set_num_threads(1)  # tiny tensors are faster without threads
    made = nullcontext("") if path else TemporaryDirectory(prefix="fm-net-bench-")
    with made as folder:
        side = DRY_CROP if dry else crop
        store = local_copy(path) if path else synthetic_store(Path(folder), side)
        content = about(device, store, dry=dry) | {"minutes": minutes}
        yield store, Figures(figures_file(out_path, content["device"]), content)


def about(device: torch.device, store: Store, *, dry: bool) -> dict[str, Any]:
    """The conditions of all figures: device, driver, versions, commit, store."""
    on_gpu = device.type == "cuda"
    driver = collect_env.get_nvidia_driver_version(collect_env.run) if on_gpu else None  # type: ignore[no-untyped-call]
    here, manifest = machine(), store.manifest
    return here | {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {here['processor']}",
        "driver": driver,
        "cuda": torch.version.cuda if on_gpu else None,
        "versions": versions(),
        "dry_run": dry,
        "store": {"name": manifest.name, "crop": store.crop, "dtype": manifest.dtype},
    }


def headline(figures: dict[str, Any]) -> str:
    """The main conditions in a few words."""
    driver = f", driver {figures['driver']}, CUDA {figures['cuda']}" if figures["driver"] else ""
    crop = "×".join(str(side) for side in figures["store"]["crop"])
    dry = "; dry run: the figures mean nothing" if figures["dry_run"] else ""
    return (
        f"{figures['device']}{driver}, {figures['cores']} core(s); commit {figures['commit']}; "
        f"crops {crop} of {figures['store']['name']}{dry}"
    )


def figures_file(path: str | None, device: str) -> Path | None:
    """The JSON file: `path`, or DEVICE.json in it where it is a folder."""
    if path is None:
        return None
    file = Path(path)
    if path.endswith("/") or file.is_dir():
        file /= re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"
    return file


def free(device: torch.device) -> None:
    """Free the memory of finished sessions, which are in reference cycles."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
