"""Section `peers`: networks of others in the same training step."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from rich.table import Table
from rich.text import Text
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training.networks import (
    NVIDIA_WIDTHS,
    WIDTHS,
    missing,
    put_in,
)
from benchmarks.training.rows import figures
from benchmarks.training.suite import Bench
from benchmarks.training.trial import SECONDS, Row, Trial, race, resident
from benchmarks.training.variants import BASE
from train.config import load_config
from train.data.feed import Batch
from train.networks import (
    DynUNetConfig,
    NetworkConfig,
    PlainConvUNetConfig,
    parameter_count,
)

BATCH = 2
DRY_WIDTHS = (2, 4, 8)
DRY_NVIDIA_WIDTHS = (2, 4, 6, 8)
LAYOUTS = {"channels last": "channels_last=true", "channels first": "channels_last=false"}
"""By name, what of the configuration makes it; the first is the presets' own."""


@dataclass(frozen=True)
class Network:
    """A network to measure.

    Attributes:
        name: for people.
        preset: whose optimiser, precision and loss it is trained with; ours is the preset's own.
        package: that it is from; empty for ours.
        config: its configuration; None for ours.
    """

    name: str
    preset: str
    package: str = ""
    config: NetworkConfig | None = None

    def build(self, overrides: tuple[str, ...]) -> nn.Module:
        """It, on torch's default device."""
        config = self.config or load_config(self.preset, overrides).model
        return config.build(4, 3)


@dataclass(frozen=True)
class Peers:
    """All rows.

    Attributes:
        rows: each network in each layout.
        parameters: by network, how many numbers it learns; without those that are not installed.
        gflop: by network, of a forward pass in training, for one volume.
    """

    rows: list[Row]
    parameters: dict[str, int]
    gflop: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Each row with the time of each step."""
        rows = [
            row.to_json()
            | {
                "parameters": self.parameters.get(row.network),
                "forward_gflop": self.gflop.get(row.network),
            }
            for row in self.rows
        ]
        return {"rows": rows}

    def table(self) -> Table:
        """Medians."""
        title = f"batches of {BATCH}, one loop, loss and optimiser; × is volumes/s beside the first"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for heading in ("", "M weights", "GFLOP", "ms", "volumes/s", "×", "GB", ""):
            table.add_column(heading, justify="right" if heading else "left")
        network = ""
        for row in self.rows:
            if row.network != network:
                network = row.network
                size, work = self.parameters.get(network), self.gflop.get(network)
                table.add_row(
                    Text(network, "bold"),
                    "–" if size is None else f"{size / 1e6:.1f}",
                    "–" if work is None else f"{work:.0f}",
                )
            table.add_row(row.variant, "", "", *figures(row))
        return table


def networks(*, dry: bool) -> list[Network]:
    """What is measured: the two of equal width beside the U-Net, then those with heads."""
    widths, nvidia = (DRY_WIDTHS, DRY_NVIDIA_WIDTHS) if dry else (WIDTHS, NVIDIA_WIDTHS)
    monai, nnunet = "monai", "dynamic_network_architectures"
    return [
        Network("U-Net", "unet"),
        Network("MONAI DynUNet, equal width", "unet", monai, DynUNetConfig(widths=widths, heads=0)),
        Network(
            "nnU-Net PlainConvUNet, equal width",
            "unet",
            nnunet,
            PlainConvUNetConfig(widths=widths, supervised=False),
        ),
        Network("FM-Net", "fm_net"),
        Network(
            "MONAI DynUNet, NVIDIA's BraTS", "fm_net", monai, DynUNetConfig(widths=nvidia, heads=2)
        ),
        Network(
            "nnU-Net PlainConvUNet, supervised",
            "fm_net",
            nnunet,
            PlainConvUNetConfig(widths=widths),
        ),
    ]


def forward_flop(network: nn.Module, crop: tuple[int, int, int]) -> int:
    """Of convolutions and products, for one volume in training mode.

    Args:
        network: on the device `meta`, where shapes are known and nothing is computed.
        crop: (D, H, W).
    """
    with FlopCounterMode(display=False) as counter:
        network.train()(torch.empty(1, 4, *crop, device="meta"))
    return int(counter.get_total_flops())


def measure(bench: Bench) -> Peers:
    """Measure the networks' steps; takes no preset and none of its overrides.

    Raises:
        ConfigError: the networks do not fit the store's crops.
        StoreError: a case cannot be read.
    """
    sizes = (f"model.widths={list(DRY_WIDTHS)}",) if bench.dry else ()
    chosen, found = networks(dry=bench.dry), Peers([], {}, {})
    with ExitStack() as stack:
        with bench.begun("unet", *sizes) as session:
            batch = resident(session.stream(), BATCH, bench.device)
        base: Trial | None = None
        for layout, override in LAYOUTS.items():
            for network in chosen:
                row = Row(network.name, layout, BATCH)
                if why := network.package and missing(network.package):
                    if layout == next(iter(LAYOUTS)):
                        found.rows.append(replace(row, note=why))
                    continue
                _count(found, network, sizes, bench)
                overrides = (*sizes, override)
                begin = partial(_begun, bench, network, overrides, batch)
                left = len(LAYOUTS) * len(chosen) - len(found.rows)
                row = race(bench, row, begin, base, min(SECONDS, bench.each(left) / 2))
                found.rows.append(row)
                if base is None and row.ms:
                    base = stack.enter_context(begin())
                    base.warm_up()
    order = [network.name for network in chosen]
    found.rows.sort(key=lambda row: order.index(row.network))
    return found


def _count(found: Peers, network: Network, sizes: tuple[str, ...], bench: Bench) -> None:
    if network.name in found.parameters:
        return
    with torch.device("meta"):
        shapes = network.build(sizes)
    found.parameters[network.name] = parameter_count(shapes.parameters())
    found.gflop[network.name] = forward_flop(shapes, bench.store.crop) / 1e9


@contextmanager
def _begun(
    bench: Bench, network: Network, overrides: tuple[str, ...], batch: Batch
) -> Iterator[Trial]:
    """The preset's session with the network in it."""
    with bench.begun(network.preset, *BASE, *overrides, f"batch_size={BATCH}") as session:
        if network.config is not None:
            put_in(session, network.config)
        yield Trial(session, batch)
