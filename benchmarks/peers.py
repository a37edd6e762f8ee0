"""Section `peers`: networks of others in the same training step."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.racing import Entry, race, rows_table
from benchmarks.sections import DRY_NETWORK, Bench, Result
from common.errors import ConfigError
from common.volume import Triple
from train.config import load_config
from train.networks import parameter_count

DYNUNET = {
    False: ("model.kind=dynunet", "model.widths=[64,96,128,192,256,384,512]", "model.heads=2"),
    True: ("model.kind=dynunet", "model.heads=1"),
}
"""By whether it is a dry run: DynUNet as NVIDIA's nnU-Net trains it for BraTS 2021 (its notebook;
arXiv:2110.03352)."""
PLAIN_CONV_UNET = "model.kind=plain_conv_unet"
TITLE = (
    "batches of 2, one loop, loss and optimiser; × is volumes/s relative to the first, in turns; "
    "beside the names weights, and a forward pass of one volume"
)


def networks(*, dry: bool) -> Iterator[Entry]:
    """What is measured: those of equal width beside the U-Net, then those with heads."""
    for name, preset, changes in (
        ("U-Net", "unet", ()),
        ("DynUNet, equal width", "unet", ("model.kind=dynunet", "model.heads=0")),
        ("PlainConvUNet, equal width", "unet", (PLAIN_CONV_UNET, "model.supervised=false")),
        ("FM-Net", "fm_net", ()),
        ("DynUNet, NVIDIA's BraTS", "fm_net", DYNUNET[dry]),
        ("PlainConvUNet, supervised", "fm_net", (PLAIN_CONV_UNET,)),
    ):
        yield Entry(name, preset, "channels last", overrides=changes)


def measure(bench: Bench) -> Result:
    """Measure each network channels last, then each channels first."""
    chosen = list(networks(dry=bench.dry))
    turned = [
        replace(entry, way="channels first", overrides=(*entry.overrides, "channels_last=false"))
        for entry in chosen
    ]
    rows = race(bench, [*chosen, *turned])
    order = [entry.network for entry in chosen]
    rows.sort(key=lambda row: order.index(row.group))
    sizes = {entry.network: _size(entry, bench) for entry in chosen}

    def network(name: str) -> str:
        if not sizes[name]:
            return name
        weights, gflop = sizes[name]["parameters"] / 1e6, sizes[name]["forward_gflop"]
        return f"{name}: {weights:.1f} M, {gflop:.0f} GFLOP"

    raw = [row.to_json() | sizes[row.group] for row in rows]
    return Result(rows_table(TITLE, rows, network), {"rows": raw})


def _size(entry: Entry, bench: Bench) -> dict[str, float]:
    """How many numbers it learns, and GFLOP of a volume's forward pass in training."""
    dry = (DRY_NETWORK,) if bench.dry else ()
    config = load_config(entry.preset, (*dry, *entry.overrides))
    try:
        with torch.device("meta"):
            network = config.build_network(bench.store.task, torch.device("meta"))
    except ConfigError:  # not installed, as its row says
        return {}
    gflop = (
        forward_flop(network, len(config.modalities_of(bench.store.task)), bench.store.crop) / 1e9
    )
    return {"parameters": parameter_count(network.parameters()), "forward_gflop": gflop}


def forward_flop(network: nn.Module, channels: int, crop: Triple) -> int:
    """Of convolutions, two for a multiplication with its addition, for one volume in training.

    Args:
        network: on the device `meta`, where shapes are known and nothing is computed.
        channels: that it sees.
        crop: (D, H, W).
    """
    with FlopCounterMode(display=False) as counter:
        network.train()(torch.empty(1, channels, *crop, device="meta"))
    return int(counter.get_total_flops())
