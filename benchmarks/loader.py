"""The measurements behind docs/decisions/0004, and what a loader takes of a GPU node's processor.

python benchmarks/loader.py speed STORE     CPU and wall time of a sample through either loader
python benchmarks/loader.py agree STORE     the largest difference between the loaders' samples
python benchmarks/loader.py noise STORE     what noise costs, and how far DALI's own repeats itself
python benchmarks/loader.py host STORE      samples read, drawn and handed over; a GPU does the rest
"""

import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import pipeline_def
from torch import Tensor

from benchmarks.training.loader import NOTHING, Source
from benchmarks.training.timing import spend
from common.store import Store
from common.task import MODALITIES
from train.data.augment import NOISE, AugmentConfig, generator, noise_field
from train.data.loader import LoaderKind, open_feed
from train.data.source import CONTROLS, DaliSource, WorkersPickle
from train.data.stream import Stream
from train.data.workers import status_folder

CPU = torch.device("cpu")
LOADERS: tuple[LoaderKind, ...] = ("dali", "torch")
WORKERS = 2
SAMPLES = 33

EVERYTHING = AugmentConfig(
    zoom_probability=1,
    flip_probability=1,
    noise_probability=1,
    blur_probability=1,
    brightness_probability=1,
)


def stream_of(path: Path, augment: AugmentConfig) -> Stream:
    store = Store.open(path)
    return Stream(
        store, tuple(store.contents().patients), MODALITIES, augment, seed=0, batch_size=1
    )


def speed(path: Path) -> None:
    for name, augment in (
        ("none", NOTHING),
        ("as by default", AugmentConfig()),
        ("all five", EVERYTHING),
    ):
        for loader in LOADERS:
            source = Source(loader, stream_of(path, augment), CPU)
            spent = source.rate(WORKERS, steps=SAMPLES)
            wall = 1e3 / spent.volumes_per_second
            print(f"{name}, {loader}: {spent.cpu_ms:.0f} ms of CPU, {wall:.0f} ms a sample")


def host(path: Path) -> None:
    for workers in (1, 2):
        with status_folder() as folder:
            source = DaliSource(stream_of(path, AugmentConfig()), folder, reads=True)
            pipeline = _handed_over(
                source,
                batch_size=1,
                num_threads=1,
                device_id=None,
                py_num_workers=workers,
                py_start_method="spawn",
                py_callback_pickler=WorkersPickle(folder),
                prefetch_queue_depth=2,
            )
            pipeline.start_py_workers()
            batches = iter(pipeline.run, None)
            spend(batches, batch_size=len, steps=8)
            alone = time.process_time()
            spent = spend(batches, batch_size=lambda _: 1, steps=2 * SAMPLES)
            main = 1e3 * (time.process_time() - alone) / spent.samples
            pipeline._py_pool.close()
        print(
            f"{workers} worker(s): {spent.volumes_per_second:.0f} volumes/s, {spent.cpu_ms:.0f} ms "
            f"of CPU a sample, {main:.0f} of it in the main process"
        )


@pipeline_def
def _handed_over(source: DaliSource) -> tuple[object, ...]:
    """What workers read and draw, as it comes: no augmentation, and no number made another type."""
    image, label, _, noise, *_ = fn.external_source(
        source=source,
        num_outputs=3 + CONTROLS,
        parallel=True,
        batch=False,
        prefetch_queue_depth=2,
        bytes_per_sample_hint=source.stream.sample_bytes,
    )
    return image, label, noise


def agree(path: Path) -> None:
    stream = stream_of(path, EVERYTHING)
    with open_feed("dali", stream, CPU, 1) as one, open_feed("torch", stream, CPU, 1) as other:
        pairs = [(next(one), next(other)) for _ in range(SAMPLES)]
    labels = sum(int((a.label != b.label).sum()) for a, b in pairs)
    steps = max(_steps(a.image, b.image) for a, b in pairs)
    print(f"{SAMPLES} samples: {labels} labels differ, images by at most {steps} steps of float16")


def _steps(one: Tensor, other: Tensor) -> int:
    """The most numbers of float16 that lie between two images, where they are above 2⁻⁴."""
    large = (one.abs() > 2**-4) & (other.abs() > 2**-4)
    codes = [image[large].view(torch.int16).to(torch.int32) for image in (one, other)]
    return int((codes[0] - codes[1]).abs().max())


def noise(path: Path) -> None:
    shape = (len(MODALITIES), *Store.open(path).crop)
    times = []
    for epoch in range(5):
        began = time.process_time()
        noise_field(shape, generator(0, epoch, "case", NOISE))
        times.append(time.process_time() - began)
    print(f"a field of {shape}: {1e3 * min(times):.0f} ms of CPU")
    alone, together = (list(islice(_dali_noise(size), 12)) for size in (1, 4))
    same = sum(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    print(f"DALI's own, same seed, batches of 1 and of 4: {same} of 12 samples the same")


def _dali_noise(batch_size: int) -> Iterator[np.ndarray]:
    @pipeline_def
    def graph() -> object:
        image = fn.external_source(source=lambda _: np.zeros((8, 8, 8), np.float32), batch=False)
        return fn.noise.gaussian(image, stddev=1.0, seed=5)

    pipeline = graph(batch_size=batch_size, num_threads=1, device_id=None, seed=1)
    while True:
        (samples,) = pipeline.run()
        yield from (np.array(sample) for sample in samples)


if __name__ == "__main__":
    COMMANDS = {"speed": speed, "agree": agree, "noise": noise, "host": host}
    if len(sys.argv) != 3 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](Path(sys.argv[2]))
