"""What figures hold for: device, driver, versions, commit."""

import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils import collect_env

from train.run import versions


def about(device: torch.device) -> dict[str, Any]:
    """What is true of every figure that is measured now, on a device."""
    on_gpu = device.type == "cuda"
    driver = collect_env.get_nvidia_driver_version(collect_env.run) if on_gpu else None  # type: ignore[no-untyped-call]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {_processor()}",
        "driver": driver,
        "cuda": torch.version.cuda if on_gpu else None,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions(),
    }


def _commit() -> str:
    """Of the code's own checkout, with `-dirty` where files differ from it.

    A copy without git says what the environment says in FM_NET_COMMIT, else `unknown`.
    """
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or installed from a wheel
        return os.environ.get("FM_NET_COMMIT", "unknown")
    return found.stdout.strip()


def _processor() -> str:
    """The processor's own name, on Linux."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"
