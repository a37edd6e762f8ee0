"""Section `limits`: what a step must compute and move, and where its time goes instead."""

from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.training.kinds import GAPS
from benchmarks.training.peaks import Peaks, measure_peaks
from benchmarks.training.profiled import profile_steps
from benchmarks.training.suite import Bench, free
from benchmarks.training.trial import Trial, resident
from benchmarks.training.work import Operation, count_step, flop_by_layers
from train.data.feed import Batch
from train.precision import Precision

BATCH = 2
SECONDS = 3.0
"""A network's steps, at most."""
SIZES = {"unet": (), "fm_net": ()}
DRY_SIZES = {"unet": ("model.widths=[2,4]",), "fm_net": ("model.widths=[2,4,8]",)}
"""Networks, with what makes them small in a dry run."""


@dataclass(frozen=True)
class Kind:
    """Work of one kind in a step.

    Attributes:
        gflop: that are computed.
        gb: that are read and written.
        bound_ms: the least time for them on this machine.
        measured_ms: what they took; None where the profiler saw nothing of the device.
    """

    gflop: float = 0.0
    gb: float = 0.0
    bound_ms: float = 0.0
    measured_ms: float | None = None

    @property
    def beyond_ms(self) -> float:
        """Time beyond the bound."""
        return 0.0 if self.measured_ms is None else self.measured_ms - self.bound_ms


@dataclass(frozen=True)
class Limits:
    """A network's step beside its bound.

    Attributes:
        network: a preset.
        precision: in which it is computed.
        step_ms: of each step.
        layers: by part of the network, GFLOP of its forward and its backward pass.
        kinds: by kind of work.
        note: why there is nothing else, or what to know of it.
    """

    network: str
    precision: str = ""
    step_ms: list[float] = field(default_factory=list)
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    note: str = ""

    @property
    def bound_ms(self) -> float:
        """The least time for all kinds, one after the other."""
        return sum(kind.bound_ms for kind in self.kinds.values())

    @property
    def distance(self) -> float | None:
        """How many times the bound a step takes."""
        return median(self.step_ms) / self.bound_ms if self.step_ms else None

    def in_the_way(self) -> list[tuple[str, Kind]]:
        """Kinds of work, with most time beyond their bound first."""
        return sorted(self.kinds.items(), key=lambda item: -item[1].beyond_ms)

    def to_json(self) -> dict[str, Any]:
        """All of it, with the two above."""
        return asdict(self) | {"bound_ms": self.bound_ms, "distance": self.distance}


@dataclass(frozen=True)
class AllLimits:
    """The networks, on one machine.

    Attributes:
        crop: (D, H, W) of a volume.
        peaks: the machine's.
        networks: each.
    """

    crop: tuple[int, int, int]
    peaks: Peaks
    networks: list[Limits]

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "batch": BATCH,
            "crop": self.crop,
            "peaks": asdict(self.peaks),
            "networks": [network.to_json() for network in self.networks],
        }

    def table(self) -> RenderableType:
        """For each network its kinds of work, those in the way first, and its layers."""
        peaks = ", ".join(f"{name} {rate:.3g}" for name, rate in self.peaks.tflops.items())
        copying = f"copies {self.peaks.gb_per_second:.3g} GB/s"
        parts: list[RenderableType] = [f"at best here: TFLOP/s {peaks}; {copying}"]
        for network in self.networks:
            parts += [_kinds_table(network), _layers_table(network)] if network.kinds else []
            parts += [f"{network.network}: {network.note}"] if network.note else []
        return Group(*parts)


def measure(bench: Bench) -> AllLimits:
    """Count, time and profile the networks' steps; takes no preset and none of its overrides.

    Raises:
        ConfigError: the networks do not fit the store's crops.
        StoreError: a case cannot be read.
    """
    bench.tell("how fast this machine multiplies and copies")
    peaks = measure_peaks(bench.device, dry=bench.dry)
    found = AllLimits(bench.store.crop, peaks, [])
    for network, sizes in (DRY_SIZES if bench.dry else SIZES).items():
        if bench.late():
            found.networks.append(Limits(network, note="not run: no time was left"))
            continue
        bench.tell(f"the limits of {network}")
        seconds = min(SECONDS, bench.each(2 * len(SIZES)))
        try:
            found.networks.append(_limits(bench, network, sizes, peaks, seconds))
        except torch.OutOfMemoryError:
            found.networks.append(Limits(network, note="not run: out of memory"))
        except Exception as error:  # noqa: BLE001 - a profiler's, for one: the peaks stand
            note = f"not run: {type(error).__name__}: {error}"
            found.networks.append(Limits(network, note=note))
        free(bench.device)
    return found


def _limits(
    bench: Bench, network: str, sizes: tuple[str, ...], peaks: Peaks, seconds: float
) -> Limits:
    with bench.begun(network, *sizes, f"batch_size={BATCH}") as session:
        batch: Batch = resident(session.stream(), BATCH, bench.device)
        trial, precision = Trial(session, batch), session.compute.precision
        with torch.device("meta"):
            shapes = session.config.build_network(bench.store.task, torch.device("meta"))
        operations = count_step(shapes, session.loss, _shape(batch), precision)
        trial.warm_up()
        step_ms = trial.turn(seconds)
        measured = profile_steps(trial)
    kinds = _bounds(operations, peaks, precision)
    note = session.compute.note
    if measured:
        kinds = _with_measured(kinds, measured, median(step_ms))
    else:
        note = "; ".join(filter(None, (note, "the profiler saw nothing of the GPU")))
    layers = {
        part: (forward / 1e9, backward / 1e9)
        for part, (forward, backward) in flop_by_layers(operations).items()
    }
    return Limits(network, precision, step_ms, layers, kinds, note)


def _shape(batch: Batch) -> tuple[int, int, int, int, int]:
    volumes, channels, depth, height, width = batch.image.shape
    return volumes, channels, depth, height, width


def _bounds(operations: list[Operation], peaks: Peaks, precision: Precision) -> dict[str, Kind]:
    """What all operations of a kind need, each after the other."""
    tflops, kinds = peaks.tflops[precision], defaultdict[str, Kind](Kind)
    for operation in operations:
        kind = kinds[operation.kind]
        kinds[operation.kind] = replace(
            kind,
            gflop=kind.gflop + operation.flop / 1e9,
            gb=kind.gb + operation.moved_bytes / 1e9,
            bound_ms=kind.bound_ms + operation.bound_ms(tflops, peaks.gb_per_second),
        )
    return dict(kinds)


def _with_measured(
    kinds: dict[str, Kind], measured: dict[str, float], step_ms: float
) -> dict[str, Kind]:
    """Kinds with what they took, and the gaps: what is left of a step that was not profiled."""
    spent = measured | {GAPS: max(0.0, step_ms - sum(measured.values()))}
    names = dict.fromkeys((*kinds, *spent))
    return {
        name: replace(kinds.get(name, Kind()), measured_ms=spent.get(name, 0.0)) for name in names
    }


def _kinds_table(network: Limits) -> Table:
    whole = median(network.step_ms)
    title = (
        f"{network.network}, batches of {BATCH}, {network.precision}: {whole:.1f} ms a step, "
        f"{1e3 * BATCH / whole:.1f} volumes/s; {network.distance:.2f} times the bound"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("in the way first", "GFLOP", "GB", "bound ms", "ms", "beyond"):
        table.add_column(heading, justify="left" if heading == "in the way first" else "right")
    for name, kind in network.in_the_way():
        measured = ("–", "–")
        if kind.measured_ms is not None:
            measured = (f"{kind.measured_ms:.2f}", f"{kind.beyond_ms:+.2f}")
        table.add_row(name, *_counted(kind), *measured)
    kinds = network.kinds.values()
    total = Kind(sum(k.gflop for k in kinds), sum(k.gb for k in kinds), network.bound_ms)
    table.add_row("all", *_counted(total), f"{whole:.2f}", f"{whole - network.bound_ms:+.2f}")
    return table


def _counted(kind: Kind) -> tuple[str, str, str]:
    return f"{kind.gflop:.1f}", f"{kind.gb:.2f}", f"{kind.bound_ms:.2f}"


def _layers_table(network: Limits) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("layers", "forward GFLOP", "backward GFLOP"):
        table.add_column(heading, justify="left" if heading == "layers" else "right")
    for part, (forward, backward) in network.layers.items():
        table.add_row(part, f"{forward:.1f}", f"{backward:.1f}")
    return table
