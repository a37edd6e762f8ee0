"""The machine and the commit that figures are measured on."""

import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """For every JSON file: date, command, commit, processor and cores."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "commit": commit(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
    }


def commit() -> str:
    """The checkout's, with `-dirty` where files differ; without git, FM_NET_COMMIT."""
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("FM_NET_COMMIT", "unknown")
    return found.stdout.strip()


def processor() -> str:
    """The processor's name, on Linux."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    return found[1].strip() if found else "unknown"
