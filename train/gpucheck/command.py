"""The command: run every check, show each as it is done, keep the figures."""

from collections import Counter
from collections.abc import Sequence

import torch

from benchmarks.training.command import measure_sections
from benchmarks.training.suite import Section, choose
from common.console import out
from common.errors import ConfigError
from common.store import Store
from train.gpucheck.learning import TINY
from train.gpucheck.rows import Checked, Status
from train.precision import choose_compute

PRESET = "fm_net"
"""What is trained: it has every part that another preset has."""
CROP = 128
"""Side of the crops of cases that are made for the time being, in voxels."""

CHECKS = tuple(
    Section(name, title, share, package="train.gpucheck")
    for name, title, share in (
        ("augmentation", "Samples: DALI on the device and on a CPU", 3),
        ("resume", "Resume: with and without a break", 2),
        ("memory", "Memory of a step, in GB", 3),
        ("waits", "Waiting for the device", 1),
        # The last, as its curves are as long as there is time.
        ("precision", "Learning: in each precision and in float32", 4),
    )
)


def run_gpu_check(  # noqa: PLR0913 - as many as the command has options
    store: Store | None,
    device: str,
    only: Sequence[str],
    minutes: float,
    out_path: str | None,
    *,
    dry: bool,
) -> bool:
    """Check, show and write; whether nothing that was checked failed.

    Args:
        store: where cases come from; None makes synthetic ones for the time being.
        device: as in a run's configuration; in a dry run auto is the CPU.
        only: names of checks; empty for all.
        minutes: that all checks may take together.
        out_path: a JSON file, or a folder, where it is named by the device; None writes none.
        dry: whether everything is only tried, on tiny networks.

    Raises:
        ConfigError: there is no GPU to check, or no such check.
    """
    checks = choose(CHECKS, only)
    where = _device(device, dry=dry)
    overrides = TINY if dry else ()
    results = measure_sections(
        checks, PRESET, overrides, where, store, CROP, minutes, out_path, dry=dry
    )
    checked = [result for result in results if isinstance(result, Checked)]
    counts = Counter[Status]()
    for result in checked:
        counts.update(result.counts)
    out.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    if where.type != "cuda":
        out.print("a dry run on a CPU: it says that the checks run, and nothing about a GPU")
    return len(checked) == len(checks) and not counts["FAILED"]


def _device(device: str, *, dry: bool) -> torch.device:
    """What is checked."""
    chosen = "cpu" if dry and device == "auto" else device
    where = choose_compute(chosen, "auto").device
    if where.type == "cuda" or dry:
        return where
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    raise ConfigError(
        f"device: gpu-check needs a GPU, and {device!r} is none here (torch is built with {built} "
        f"and finds {torch.cuda.device_count()} devices): run it where there is one, or try every "
        "check on the CPU with --dry-run (make gpu-check DRY=1)"
    )
