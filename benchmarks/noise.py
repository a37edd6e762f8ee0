"""What docs/decisions/0004 measures: whose noise depends on what, and what a field costs.

python benchmarks/noise.py
"""

import time

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def

from train.augment import NOISE, generator, noise_field

SHAPE = (4, 128, 128, 128)


def main() -> None:
    """Print both."""
    first, second = dali_noise(batch_size=1, count=4), dali_noise(batch_size=2, count=4)
    same = sum(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    print(f"DALI's noise, one seed, batches of 1 and of 2: {same} of 4 samples equal")
    ours = [noise_field((8,), generator(0, 1, case, NOISE)) for case in "abcd"]
    again = [noise_field((8,), generator(0, 1, case, NOISE)) for case in "dcba"][::-1]
    same = sum(np.array_equal(a, b) for a, b in zip(ours, again, strict=True))
    print(f"drawn in the source, cases in another order: {same} of 4 samples equal")
    seconds = min(field_seconds() for _ in range(7))
    print(f"a field of {SHAPE}: {1000 * seconds:.0f} ms of one core")


def dali_noise(batch_size: int, count: int) -> list[NDArray[np.float32]]:
    """The first samples of a pipeline that draws noise itself, with seed 0."""

    @pipeline_def(batch_size=batch_size, num_threads=1, device_id=None, seed=0)
    def noise() -> object:
        return fn.random.normal(shape=[8])

    pipeline, samples = noise(), list[NDArray[np.float32]]()
    while len(samples) < count:
        (batch,) = pipeline.run()
        samples += [np.array(sample) for sample in batch]
    return samples


def field_seconds() -> float:
    """Processor time of one noise field."""
    began = time.process_time()
    noise_field(SHAPE, generator(0, 1, "case", NOISE))
    return time.process_time() - began


if __name__ == "__main__":
    main()
