"""Section `steps`: a training step's time by batch size and setting."""

import time
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.racing import Entry, race, rows_table
from benchmarks.sections import Bench, Result

NETWORKS = {"U-Net": "unet", "FM-Net": "fm_net"}
COMPILE_SECONDS = 45
TITLE = "base: fp16, channels last, NAdam, batch 2; × is volumes/s relative to it, taken in turns"


def entries(network: str) -> Iterator[Entry]:
    """The base, then one change of it each."""
    base = Entry(network, NETWORKS[network])
    yield base
    for batch in (1, 4):
        yield replace(base, batch=batch)
    yield replace(base, way="channels first", overrides=("channels_last=false",))
    for precision in ("bf16", "tf32", "fp32"):
        yield replace(base, way=precision, overrides=(f"precision={precision}",))
    changes = ("compile=true",)
    yield replace(base, way="compile", overrides=changes, needs_seconds=COMPILE_SECONDS)


def measure(bench: Bench) -> Result:
    rows = []
    for place, network in enumerate(NETWORKS):
        until = time.monotonic() + bench.each(len(NETWORKS) - place)
        rows += race(replace(bench, until=until), list(entries(network)))
    return Result(rows_table(TITLE, rows), {"rows": [row.to_json() for row in rows]})
