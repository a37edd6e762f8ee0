"""One way to feed a network, timed; `loaders.py` runs it in the environment that the way needs.

python benchmarks/loader_ways.py prepare FOLDER     the .npy files again, as nnU-Net stores them
python benchmarks/loader_ways.py WAY FOLDER WORKERS SAMPLES

Every way hands over one case at a time, image and label, with the augmentations of FM-Net's paper
at the same probabilities: zoom into a window of 0.7 to 1, noise, blur and brightness, each 0.15,
flips 0.5 an axis. What the FOLDER holds says `loaders.lay_out`.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from benchmarks.timing import spend

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 128
RARELY, WINDOW, NOISE, BLUR, FACTOR = 0.15, (0.7, 1.0), (0.0, 0.33), (0.5, 1.5), (0.7, 1.3)

PARTS = ("image", "label")

Batches = Iterator[object]
Node = Any
"""Of DALI's graph; DALI is untyped."""


def cases(folder: Path, kind: str) -> list[str]:
    """Paths without `-image` or `-label` and what follows."""
    return sorted(
        str(path).removesuffix("-label.npy") for path in folder.glob(f"{kind}/*-label.npy")
    )


def fm_net(folder: Path, workers: int, kind: str, cache: str = "none") -> Batches:
    import torch

    from common.store import Store
    from common.task import MODALITIES
    from train.data.augment import AugmentConfig
    from train.data.loader import open_feed
    from train.data.stream import Stream

    store = Store.open(folder / "store.zarr")
    labelled = tuple(store.contents().patients)
    stream = Stream(store, labelled, MODALITIES, AugmentConfig(), seed=0, batch_size=1)
    with open_feed(kind, stream, torch.device("cpu"), workers, cache) as feed:
        yield from feed


def nvidia(folder: Path, workers: int) -> Batches:
    """As NVIDIA's nnU-Net (DeepLearningExamples, commit in peers.py) has it, without its contrast
    and its choice of a patch. All in threads; each operator always runs, and a coin then chooses.
    """
    from nvidia.dali import fn, pipeline_def
    from nvidia.dali.plugin.pytorch import DALIGenericIterator
    from nvidia.dali.types import DALIInterpType as Interpolation

    found = cases(folder, "float32")

    def read(part: str, name: str) -> Node:
        files = [f"{case}-{part}.npy" for case in found]
        options = {"read_ahead": True, "dont_use_mmap": True, "shuffle_after_epoch": True}
        array = fn.readers.numpy(name=name, files=files, seed=1, pad_last_batch=True, **options)
        return fn.reshape(array, layout="CDHW")

    def rarely(changed: Node, kept: Node) -> Node:
        coin = fn.random.coin_flip(probability=RARELY)
        return coin * changed + (1 - coin) * kept

    @pipeline_def(batch_size=1, num_threads=workers, device_id=None)
    def graph() -> tuple[Node, ...]:
        image, label = read("image", "images"), read("label", "labels")
        side = SIDE * rarely(fn.random.uniform(range=WINDOW), 1.0)
        window = {"crop_d": side, "crop_h": side, "crop_w": side}
        size = (SIDE, SIDE, SIDE)
        image = fn.resize(
            fn.crop(image, **window), size=size, interp_type=Interpolation.INTERP_CUBIC
        )
        label = fn.resize(fn.crop(label, **window), size=size, interp_type=Interpolation.INTERP_NN)
        axes = ("depthwise", "vertical", "horizontal")
        flips = {axis: fn.random.coin_flip(probability=0.5) for axis in axes}
        image, label = fn.flip(image, **flips), fn.flip(label, **flips)
        noise = fn.random.normal(image, stddev=fn.random.uniform(range=NOISE))
        image = rarely(image + noise, image)
        image = rarely(fn.gaussian_blur(image, sigma=fn.random.uniform(range=BLUR)), image)
        return image * rarely(fn.random.uniform(range=FACTOR), 1.0), label

    batches = DALIGenericIterator(
        graph(), ["image", "label"], reader_name="images", auto_reset=True
    )
    while True:
        yield from batches


def nnunet(folder: Path, workers: int) -> Batches:
    """As nnU-Net v2.8 has it: files of blosc2, batchgeneratorsv2, batchgenerators' processes."""
    import blosc2
    import torch
    from batchgenerators.dataloading.data_loader import DataLoader
    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import (
        NonDetMultiThreadedAugmenter,
    )
    from threadpoolctl import threadpool_limits

    transforms = _nnunet_transforms()

    class Cases(DataLoader):
        def generate_train_batch(self) -> dict[str, Any]:
            (case,) = self.get_indices()
            options = {"mode": "r", "dparams": {"nthreads": 1}, "mmap_mode": "r"}
            with torch.no_grad(), threadpool_limits(limits=1, user_api=None):
                image, label = (blosc2.open(f"{case}-{part}.b2nd", **options) for part in PARTS)
                given = torch.from_numpy(image[:]).float(), torch.from_numpy(label[:])
                made = transforms(image=given[0], segmentation=given[1])
                return {"data": made["image"][None], "target": made["segmentation"][None]}

    blosc2.set_nthreads(1)
    found = cases(folder, "float32")
    loader = Cases(found, 1, 1, return_incomplete=False, shuffle=True, infinite=True)
    loader.indices = found
    yield from NonDetMultiThreadedAugmenter(
        loader, None, num_processes=workers, num_cached=max(6, workers // 2), wait_time=0.002
    )


def _nnunet_transforms() -> Callable[..., Any]:
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    zoom = SpatialTransform(
        (SIDE, SIDE, SIDE),
        patch_center_dist_from_border=0,
        random_crop=False,
        p_scaling=RARELY,
        scaling=WINDOW,
        p_synchronize_scaling_across_axes=1,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    noise = GaussianNoiseTransform(NOISE, p_per_channel=1, synchronize_channels=True)
    blur = GaussianBlurTransform(BLUR, True, True, p_per_channel=1, benchmark=True)
    brightness = MultiplicativeBrightnessTransform(FACTOR, synchronize_channels=True)
    rare = [RandomTransform(each, RARELY) for each in (noise, blur, brightness)]
    return ComposeTransforms([zoom, *rare, MirrorTransform((0, 1, 2))])


def monai(folder: Path, workers: int) -> Batches:
    """MONAI's CacheDataset, which keeps all cases in memory, and its dictionary transforms."""
    from monai.data import CacheDataset, DataLoader
    from monai.transforms import (
        Compose,
        LoadImaged,
        RandFlipd,
        RandGaussianNoised,
        RandGaussianSmoothd,
        RandScaleIntensityd,
        RandZoomd,
    )

    half = (FACTOR[1] - FACTOR[0]) / 2
    sigmas = {f"sigma_{axis}": BLUR for axis in "xyz"}
    transforms = [
        LoadImaged("image", reader="NumpyReader", channel_dim=0),
        LoadImaged("label", reader="NumpyReader", channel_dim=0, dtype=np.uint8),
        RandZoomd(
            PARTS, prob=RARELY, min_zoom=1.0, max_zoom=1 / WINDOW[0], mode=("trilinear", "nearest")
        ),
        *(RandFlipd(PARTS, prob=0.5, spatial_axis=axis) for axis in range(3)),
        RandGaussianNoised("image", prob=RARELY, std=NOISE[1]),
        RandGaussianSmoothd("image", prob=RARELY, **sigmas),
        RandScaleIntensityd("image", prob=RARELY, factors=half),
    ]
    found = cases(folder, "float16")
    items = [{part: f"{case}-{part}.npy" for part in PARTS} for case in found]
    kept = CacheDataset(items, Compose(transforms), num_workers=workers, progress=False)
    loader = DataLoader(
        kept, batch_size=1, shuffle=True, num_workers=workers, persistent_workers=True
    )
    while True:
        yield from loader


def plain(folder: Path, workers: int) -> Batches:
    """What one writes oneself: np.load in a Dataset, torch's operators, torch's DataLoader."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    def uniform(bounds: tuple[float, float]) -> float:
        return float(torch.empty(()).uniform_(*bounds))

    def rarely() -> bool:
        return uniform((0, 1)) < RARELY

    class Cases(Dataset[Any]):
        def __init__(self, found: list[str]) -> None:
            self.found = found

        def __len__(self) -> int:
            return len(self.found)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            arrays = [np.load(f"{self.found[index]}-{part}.npy") for part in PARTS]
            image, label = torch.from_numpy(arrays[0]).float(), torch.from_numpy(arrays[1])
            if rarely():
                side = round(SIDE * uniform(WINDOW))
                start = [int(uniform((0, SIDE - side + 1))) for _ in range(3)]
                image = _zoomed(image, start, side, "trilinear")
                label = _zoomed(label, start, side, "nearest")
            axes = [axis for axis in (1, 2, 3) if uniform((0, 1)) < 0.5]
            image, label = image.flip(axes), label.flip(axes)
            if rarely():
                image = image + uniform(NOISE) * torch.randn_like(image)
            if rarely():
                image = _blurred(image, uniform(BLUR))
            if rarely():
                image = image * uniform(FACTOR)
            return image.half(), label

    found = Cases(cases(folder, "float16"))
    loader = DataLoader(
        found, batch_size=1, shuffle=True, num_workers=workers, persistent_workers=True
    )
    while True:
        yield from loader


def _zoomed(array: "Tensor", start: list[int], side: int, mode: str) -> "Tensor":
    from torch.nn import functional as F

    z, y, x = (slice(first, first + side) for first in start)
    return F.interpolate(array[None, :, z, y, x], (SIDE, SIDE, SIDE), mode=mode)[0]


def _blurred(image: "Tensor", sigma: float) -> "Tensor":
    import torch
    from torch.nn import functional as F

    offsets = torch.arange(-round(3 * sigma), round(3 * sigma) + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (2, 3, 4):
        shape = [1, 1, 1, 1, 1]
        shape[axis] = len(kernel)
        image = F.conv3d(image[:, None], kernel.view(shape), padding="same")[:, 0]
    return image


def prepare(folder: Path) -> None:
    """With the chunks, codecs and types that nnU-Net v2.8 takes for patches of 128³."""
    import blosc2

    blocks = {"image": (1, 32, 32, 32), "label": (1, 64, 32, 32)}
    chunks = {"image": (1, 128, 128, 96), "label": (1, 128, 128, 128)}
    filters = {"image": blosc2.Filter.SHUFFLE, "label": blosc2.Filter.NOFILTER}
    for case in cases(folder, "float32"):
        for part in PARTS:
            array = np.load(f"{case}-{part}.npy")
            options = {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "filters": [filters[part]]}
            blosc2.asarray(
                array if part == "image" else array.astype(np.int16),
                urlpath=f"{case}-{part}.b2nd",
                chunks=chunks[part],
                blocks=blocks[part],
                cparams=options,
            )


WAYS: dict[str, Callable[[Path, int], Batches]] = {
    "fm_net_dali": partial(fm_net, kind="dali"),
    "fm_net_dali_ram": partial(fm_net, kind="dali", cache="ram"),
    "fm_net_torch": partial(fm_net, kind="torch"),
    "nvidia": nvidia,
    "nnunet": nnunet,
    "monai": monai,
    "plain": plain,
}


def turn(way: Callable[[Path, int], Batches], folder: Path, workers: int, samples: int) -> None:
    """Print the seconds of an epoch from the very beginning, and of samples of later ones."""
    epoch = len(cases(folder, "float16"))
    batches = iter(way(folder, workers))  # opens nothing before the first batch is asked for
    first = spend(batches, batch_size=lambda _: 1, steps=epoch)
    later = spend(batches, batch_size=lambda _: 1, steps=samples)
    print(json.dumps({"first": asdict(first), "later": asdict(later)}), flush=True)
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(0)  # some ways wait for their processes for ever


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]))
    else:
        turn(WAYS[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
