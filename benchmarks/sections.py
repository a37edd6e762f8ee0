"""The training benchmark's sections, one after the other within a given time."""

import gc
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from rich.console import RenderableType
from rich.rule import Rule
from torch.utils import collect_env

from common import console
from common.console import err, out
from common.errors import ConfigError, FMNetError
from common.files import write_json
from common.store import Store, is_remote, local_copy
from train.run import begin, fresh, versions
from train.trainer import Session

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRY_CROP = 16
"""Side of synthetic crops in a dry run, in voxels."""
DRY_NETWORK = "model.widths=[4,8,16]"
"""A dry run's network; crops of 16 voxels leave it four planes at its deepest."""


@dataclass(frozen=True)
class Result:
    """What a section measured."""

    table: RenderableType
    """For people: medians and ratios."""
    raw: dict[str, Any]
    """For the JSON file: everything, with raw timings."""
    figure: "Figure | None" = None
    """Goes beside the JSON file."""


@dataclass(frozen=True)
class Bench:
    """What a section measures with."""

    device: torch.device
    store: Store
    """Where samples come from."""
    until: float = 0.0
    """When the section's time is over, on `time.monotonic`'s clock."""
    dry: bool = False
    """Only try everything: tiny networks, the fewest repetitions, every row whatever the time."""
    tell: Callable[[str], None] = lambda _: None
    """Is told what is measured next."""
    preset: str = "fm_net"
    """What `pipeline` measures: a preset's name, or a YAML file."""
    overrides: tuple[str, ...] = ()
    """Of that preset's keys, as `key=value`."""

    def each(self, count: int) -> float:
        """Seconds for each of so many measurements still to come; 0 when dry, or late."""
        return 0.0 if self.dry else max(0.0, self.until - time.monotonic()) / count

    def late(self) -> bool:
        """Whether the section's time is over."""
        return not self.dry and time.monotonic() > self.until

    @contextmanager
    def begun(self, preset: str, *overrides: str, saved: bool = False) -> Iterator[Session]:
        """A run on this device and store, in a temporary folder; its network is tiny when dry.

        Args:
            preset: a preset's name, or a YAML file.
            overrides: of its keys, as `key=value`.
            saved: whether its folder holds it, so that it can be resumed; that takes seconds.

        Raises:
            ConfigError: the configuration is not valid, or does not fit the store.
        """
        dry = (DRY_NETWORK,) if self.dry else ()
        with TemporaryDirectory(prefix="fm-net-bench-") as folder:
            run_dir = Path(folder, "run")
            run_dir.mkdir()
            changes = (f"device={self.device}", *dry, *overrides)
            yield (begin if saved else fresh)(preset, changes, self.store, run_dir)


@dataclass(frozen=True)
class Section:
    """A part of the benchmark: the module `benchmarks.NAME`, whose `measure` takes a Bench."""

    name: str
    title: str
    share: float
    """Of the time, relative to the other sections'."""
    cpu: bool = False
    """Whether its figures mean something on a CPU."""


SECTIONS = (
    Section("table1", "Table I: mixed precision and DALI", share=4),
    Section("steps", "Ways of taking a step", share=5),
    Section("peers", "The step beside other networks", share=2),
    Section("limits", "The step beside its lower bound", share=1),
    Section("inference", "Whole volumes", share=2),
    Section("learning", "Learning on real cases", share=3),
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
    """Everything that was measured, in the JSON file that is written after each part."""

    file: Path | None
    """None writes none."""
    content: dict[str, Any] = field(default_factory=dict)

    def add(self, section: str, found: dict[str, Any]) -> None:
        """Add a section's figures, and write all of them."""
        self.content.setdefault("sections", {})[section] = found
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, self.content)


def run_sections(
    sections: Sequence[Section], minutes: float, make: Callable[[float], Bench], figures: Figures
) -> bool:
    """Measure and show sections one after the other; whether none failed.

    One that fails leaves the others as they are; what one leaves of its time is the others'.

    Args:
        sections: in this order.
        minutes: for all together.
        make: what a section measures with, from the time when it is to be over.
        figures: gets what was measured.
    """
    end, clean = time.monotonic() + 60 * minutes, True
    for number, section in enumerate(sections):
        began = time.monotonic()
        shares = sum(other.share for other in sections[number:])
        bench = make(began + max(0.0, end - began) * section.share / shares)
        try:
            result: Result = import_module(f"benchmarks.{section.name}").measure(bench)
        except Exception as error:  # noqa: BLE001 - the sections after it are measured all the same
            if not isinstance(error, FMNetError):
                err.print_exception()
            why = (
                str(error) if isinstance(error, FMNetError) else f"{type(error).__name__}: {error}"
            )
            err.print(f"✗ {section.name}: {why}", soft_wrap=True)
            found: dict[str, Any] = {"failed": why}
            clean = False
        else:
            out.print(Rule(section.title, align="left"), result.table, "")
            found = result.raw
            if figures.file and result.figure:
                name = f"{figures.file.stem}-{section.name}.png"
                result.figure.savefig(figures.file.with_name(name))
        figures.add(section.name, {"took_seconds": time.monotonic() - began} | found)
        free(bench.device)
    return clean


def about(device: torch.device, store: Store, *, dry: bool) -> dict[str, Any]:
    """What all figures hold for: device, driver, versions, commit, store."""
    on_gpu = device.type == "cuda"
    driver = collect_env.get_nvidia_driver_version(collect_env.run) if on_gpu else None  # type: ignore[no-untyped-call]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {processor()}",
        "driver": driver,
        "cuda": torch.version.cuda if on_gpu else None,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions(),
        "dry_run": dry,
        "store": {
            "name": store.manifest.name,
            "crop": store.crop,
            "dtype": store.manifest.dtype,
        },
    }


def headline(figures: dict[str, Any]) -> str:
    """`about` in three lines."""
    known = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    driver = f", driver {figures['driver']}, CUDA {figures['cuda']}" if figures["driver"] else ""
    crop = "×".join(str(side) for side in figures["store"]["crop"])
    dry = "; dry run: the figures mean nothing" if figures["dry_run"] else ""
    return "\n".join(
        (
            f"{figures['device']}{driver}; {figures['processor']}, {figures['cores']} core(s)",
            f"{figures['date']}, commit {figures['commit']}; {known}",
            f"crops {crop} of {figures['store']['name']}, {figures['store']['dtype']}{dry}",
        )
    )


def figures_file(path: str | None, device: str) -> Path | None:
    """The JSON file: `path`, or in it where it is a folder, named by the device."""
    if path is None:
        return None
    file = Path(path)
    if path.endswith("/") or file.is_dir():
        file /= re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"
    return file


def commit() -> str:
    """Of this checkout, with `-dirty` where files differ; without git, FM_NET_COMMIT says it."""
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("FM_NET_COMMIT", "unknown")
    return found.stdout.strip()


def processor() -> str:
    """The processor's own name, on Linux."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    return found[1].strip() if found else "unknown"


def open_store(path: str) -> Store:
    """A store, copied to this machine if it is elsewhere.

    Raises:
        StoreError: there is none.
    """
    if not is_remote(path):
        return Store.open(path)
    with console.progress("cases") as bar:
        task = bar.add_task("copying the store", total=None)
        return local_copy(path, lambda done, total: bar.update(task, completed=done, total=total))


def free(device: torch.device) -> None:
    """Give back what finished sessions held, those in reference cycles too."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
