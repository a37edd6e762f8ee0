"""Steps of a run on a few batches, as checks take them."""

from dataclasses import replace

from benchmarks.training.suite import Bench
from train.data.feed import Batch
from train.gpucheck.samples import by_dali
from train.trainer import Session, step

TINY = ("model.widths=[8,16,24]",)
"""A dry run's network: its three levels leave crops of 16 voxels four planes deep."""
HALVINGS = 16
"""Steps that fp16 may leave out: its scale begins at 2¹⁶ and is halved each time, down to 1."""


def batches_of(bench: Bench, count: int) -> list[Batch]:
    """Batches of one sample, augmented as the preset has it, on the device.

    Raises:
        ConfigError: the store does not fit the network, or DALI is not installed.
        StoreError: a case cannot be read.
    """
    with bench.begun(bench.preset, *bench.overrides, "batch_size=1") as session:
        return by_dali(session.stream(), session.compute.device, count)


def repeated(batch: Batch, size: int) -> Batch:
    """A batch of one sample, so many times."""
    image = batch.image.repeat_interleave(size, 0)
    return replace(
        batch,
        image=image,
        label=batch.label.repeat_interleave(size, 0),
        case_ids=batch.case_ids * size,
    )


def learn(session: Session, batch: Batch) -> None:
    """Take steps until one has a finite gradient, which is the first that the optimiser makes.

    Raises:
        RuntimeError: none has, whatever the scale of the gradients.
    """
    for _ in range(HALVINGS + 1):
        if step(session, batch)[1]:
            return
    raise RuntimeError(f"{HALVINGS + 1} steps without a finite gradient")
