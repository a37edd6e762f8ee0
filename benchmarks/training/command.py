"""The command: choose sections, measure, show each as it is done, keep the figures."""

import re
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.rule import Rule

from benchmarks.training.about import about
from benchmarks.training.store import synthetic_store
from benchmarks.training.suite import (
    SECTIONS,
    Bench,
    Pictured,
    Result,
    Section,
    choose,
    run_sections,
)
from common.console import err, out
from common.errors import FMNetError
from common.store import Store
from train.checkpoint import write_json
from train.precision import choose_compute

DRY_CROP = 16
"""Side of the crops that are made for a dry run, in voxels."""


def run_bench(  # noqa: PLR0913, PLR0917 - as many as the command has options
    preset: str,
    overrides: Sequence[str],
    store: Store | None,
    crop: int,
    device: str,
    only: Sequence[str],
    minutes: float,
    out_path: str | None,
    *,
    dry: bool,
) -> bool:
    """Measure, show and write; whether every section could be measured.

    Args:
        preset: what `pipeline` measures.
        overrides: of its keys.
        store: where samples come from; None makes a synthetic one for the time being.
        crop: side of the synthetic crops, in voxels.
        device: as in a run's configuration.
        only: names of sections; empty for all that mean something on the device.
        minutes: that all may take together.
        out_path: a JSON file, or a folder, where it is named by the device; None writes none.
        dry: as `benchmarks.training.suite.Bench.dry`.

    Raises:
        ConfigError: no such section or device.
    """
    where = choose_compute(device, "auto").device
    sections = choose(SECTIONS, only)
    if not only and not dry and where.type != "cuda":
        sections = [section for section in sections if section.cpu]
    results = measure_sections(
        sections, preset, overrides, where, store, crop, minutes, out_path, dry=dry
    )
    return not any(isinstance(result, FMNetError) for result in results)


def measure_sections(  # noqa: PLR0913, PLR0917 - as above
    sections: Sequence[Section],
    preset: str,
    overrides: Sequence[str],
    device: torch.device,
    store: Store | None,
    crop: int,
    minutes: float,
    out_path: str | None,
    *,
    dry: bool,
) -> list[Result | FMNetError]:
    """Measure, show and write: each section's result, or why there is none.

    The file is written again after each section, so that none is lost with one after it. A section
    that has a picture leaves it beside the file.

    Args:
        sections: in this order.
        preset: as `benchmarks.training.suite.Bench.preset`.
        overrides: of its keys.
        device: where.
        store: as in `run_bench`.
        crop: likewise.
        minutes: likewise.
        out_path: likewise.
        dry: likewise.
    """
    figures = {**about(device), "dry_run": dry, "minutes": minutes, "sections": dict[str, Any]()}
    file = _file(out_path, figures["device"])
    results: list[Result | FMNetError] = []

    def done(section: Section, result: Result | FMNetError, seconds: float) -> None:
        results.append(result)
        if isinstance(result, FMNetError):
            err.print(f"✗ {section.name}: {result}", soft_wrap=True)
            found: dict[str, Any] = {"failed": str(result)}
        else:
            out.print(Rule(section.title, align="left"), result.table(), "")
            found = result.to_json()
        figures["sections"][section.name] = {"took_seconds": seconds} | found
        if file:
            write_json(file, figures)
            if isinstance(result, Pictured) and (figure := result.figure()):
                figure.savefig(file.with_name(f"{file.stem}-{section.name}.png"))

    made = nullcontext() if store else tempfile.TemporaryDirectory(prefix="fm-net-bench-")
    with made as folder:
        opened = store or synthetic_store(Path(str(folder)), DRY_CROP if dry else crop)
        figures["store"] = _about_store(opened)
        out.print(_headline(figures), soft_wrap=True)

        def bench(until: float) -> Bench:
            tell = lambda what: err.print(f"measuring {what} …")  # noqa: E731
            return Bench(preset, tuple(overrides), device, opened, dry, until, tell)

        run_sections(sections, 60 * minutes, bench, done)
    if file:
        out.print(f"figures: {file}", soft_wrap=True)
    return results


def _file(path: str | None, device: str) -> Path | None:
    """Where figures go; its folder is there."""
    if path is None:
        return None
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    file = Path(path)
    if path.endswith("/") or file.is_dir():
        file /= f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _about_store(store: Store) -> dict[str, Any]:
    manifest = store.manifest
    return {"name": manifest.name, "crop": store.crop, "dtype": manifest.dtype}


def _headline(figures: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    driver = f", driver {figures['driver']}, CUDA {figures['cuda']}" if figures["driver"] else ""
    store = figures["store"]
    crop = "×".join(str(side) for side in store["crop"])
    dry = "; a dry run: no figure means anything" if figures["dry_run"] else ""
    return "\n".join(
        (
            f"{figures['device']}{driver}; {figures['processor']}, {figures['cores']} core(s)",
            f"{figures['date']}, commit {figures['commit']}; {versions}",
            f"crops {crop} of {store['name']}, {store['dtype']}{dry}",
        )
    )
