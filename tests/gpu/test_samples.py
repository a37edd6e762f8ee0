"""DALI on the device makes the samples that it makes on a CPU.

Where the device is a CPU, the other side is the torch loader's arithmetic.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import pytest
import torch
from gpu_check import Check, Row, by_dali, judged
from torch import Tensor

from common.store import Store
from train.data.augment import AugmentConfig
from train.data.cache import CacheKind
from train.data.feed import Batch
from train.data.stream import Stream
from train.data.torch_loader import in_this_process

pytestmark = pytest.mark.gpu

CASES = 4
"""As many are compared, or as many slices."""

ROUNDINGS = {
    # Three axes of 4 products, whose weights were rounded 8 times before: an entry of the kernel's
    # table, two differences and a product between two of them, a sum of four, a division. An axis'
    # weights sum up to 1.25 at most, regardless of their signs.
    "zoom": 3 * (4 + 8) * 1.25**3,
    # Three axes of 11 products (⌈3σ⌉ on either side, σ to 1.5), whose weights were rounded 16 times
    # before: the exponential function about 4 times, a sum of 11, a division.
    "blur": 3 * (11 + 16),
    "noise": 2,
    "brightness": 1,
    # Eight products of a voxel's corners, whose weights were rounded 4 times before.
    "rotation": 8 + 4,
    # Three shifts of two products each, whose weights are exact.
    "elastic": 3 * 2,
    # Three axes of 5 products to fewer voxels, then as zoom.
    "low_resolution": 3 * (5 + 8) + 3 * (4 + 8) * 1.25**3 + 2,
    "contrast": 1,
    # Sums over the whole sample, and a power: just above the darkest voxel it is steep, and raises
    # what the augmentations before it left of roundings.
    "gamma": 4096,
    "flip": 0,
    "modality_dropout": 0,
}
"""By which float32's half step a result may be off, relative to the largest value that went in."""
HALF_STEP = 2.0**-24
"""Of float32, relative to a value."""
LEAST_STEP = 2.0**-24
"""Of float16, for the least values; from 2⁻¹⁴ on it is 2⁻¹⁰ of the power of two below a value."""

ALL = tuple(ROUNDINGS)
LABELS = (
    "share of voxels: positions are multiples of 1/2048 voxel, exact in float32: no tie differs"
)
EXACT = "samples are only copied, mirrored or set to 0: no bit may differ"


@dataclass(frozen=True)
class Case:
    """One comparison."""

    name: str
    on: tuple[str, ...] = ALL
    """Augmentations that every sample gets."""
    batch_size: int = 1
    one_modality: bool = False
    dims: Literal[2, 3] = 3
    window: Literal["crop", "random"] = "crop"
    cache: CacheKind = "none"
    """Of the side that is checked."""


CHECKED = (
    Case("not augmented", on=()),
    *(Case(name, on=(name,)) for name in ALL),
    Case("all at once, batches of 2", batch_size=2),
    Case("all, slices, batches of 2", batch_size=2, dims=2),
    Case("all, one modality", one_modality=True),
    Case("all, window=random", window="random"),
    Case("all, cache=device", cache="device"),
)


@pytest.mark.parametrize("case", CHECKED, ids=lambda case: case.name)
def test_samples_of_the_device_are_those_of_a_cpu(check: Check, case: Case) -> None:
    check.need_time(case.name)
    store, device = check.bench.store, check.device
    cases = tuple(islice(_cases(store, case.window), CASES))
    stream = stream_of(case, store, cases)
    batches = -(-min(CASES, stream.samples) // case.batch_size)
    made = by_dali(stream, device, batches, case.cache)
    if check.on_gpu:
        expected = by_dali(stream, torch.device("cpu"), batches)
    else:
        expected = list(islice(in_this_process(stream, device), batches))
    if elsewhere := {batch.image.device.type for batch in made} - {device.type}:
        check.add(Row(case.name, "FAILED", f"batches came to {', '.join(elsewhere)}"))
    check.add(*compare(case, stream, made, expected))


def stream_of(case: Case, store: Store, cases: tuple[str, ...]) -> Stream:
    """What is compared, with every chosen augmentation on every sample."""
    chances = {name: {"probability": float(name in case.on)} for name in ALL}
    return Stream(
        store=store,
        case_ids=cases,
        modalities=store.task.modalities[:1] if case.one_modality else store.task.modalities,
        augment=AugmentConfig.model_validate(chances),
        seed=0,
        batch_size=case.batch_size,
        dims=case.dims,
        window=case.window,
    )


def compare(
    case: Case, stream: Stream, made: Sequence[Batch], expected: Sequence[Batch]
) -> Sequence[Row]:
    """Judge image and label of all samples together: made on the device, expected of a CPU."""
    image, other = (torch.cat([b.image.cpu() for b in side]).float() for side in (made, expected))
    label, others = (torch.cat([b.label.cpu() for b in side]) for side in (made, expected))
    apart = (image - other).abs()
    roundings = 2 * sum(ROUNDINGS[name] for name in case.on)
    largest = max(_largest(stream, len(made)), float(other.abs().max()))
    found, bound, why = apart.max(), roundings * HALF_STEP * largest, EXACT
    if roundings or stream.store.manifest.dtype != "float16":
        found = (apart - _step(torch.maximum(image.abs(), other.abs()))).max().clamp_min(0)
        why = f"beyond one step of float16: {roundings:.0f} half steps of float32 at {largest:.3g}"
    figures = {
        "largest_difference": float(apart.max()),
        "mean_difference": float(apart.mean()),
        "share_that_differs": float((apart > 0).float().mean()),
        "voxels": apart.numel(),
    }
    wrong = float((label != others).float().mean())
    return [
        judged(f"{case.name}: image", float(found), bound, why, **figures),
        judged(f"{case.name}: labels", wrong, 0.0, LABELS, voxels=label.numel()),
    ]


def _step(magnitude: Tensor) -> Tensor:
    """The distance from a float16 number to the next larger one."""
    return (torch.exp2(magnitude.log2().floor()) * 2.0**-10).clamp_min(LEAST_STEP)


def _largest(stream: Stream, batches: int) -> float:
    """Magnitude of the largest value that some batches are made from."""
    places = [(index, n) for index in range(batches) for n in range(len(stream.step(index).keys))]
    return max(float(np.abs(stream.sample(*place).image).max()) for place in places)


def _cases(store: Store, window: str) -> Iterator[str]:
    """Cases that samples can be cut from."""
    contents = store.contents()
    yield from contents.split("train") if window == "crop" else contents.patients
