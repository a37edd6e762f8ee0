"""Section `peers`: networks of others in the same training step."""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.racing import Entry, race, rows_table
from benchmarks.sections import Bench, Result

DYNUNET = {
    False: ("model.kind=dynunet", "model.widths=[64,96,128,192,256,384,512]", "model.heads=2"),
    True: ("model.kind=dynunet", "model.heads=1"),
}
"""By dry run or not: as NVIDIA's nnU-Net trains it for BraTS 2021 (notebook; arXiv:2110.03352)."""
PLAIN_CONV_UNET = "model.kind=plain_conv_unet"
TITLE = "batches of 2, one loop, loss and optimiser; × is volumes/s relative to the first, in turns"


def networks(*, dry: bool) -> Iterator[Entry]:
    """Those of equal width as the U-Net, then those with supervision heads."""
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
    chosen = list(networks(dry=bench.dry))
    turned = [
        replace(entry, way="channels first", overrides=(*entry.overrides, "channels_last=false"))
        for entry in chosen
    ]
    rows = race(bench, [*chosen, *turned])
    order = [entry.network for entry in chosen]
    rows.sort(key=lambda row: order.index(row.group))
    return Result(rows_table(TITLE, rows), {"rows": [row.to_json() for row in rows]})
