"""Both loaders, as they are: worker processes, and DALI's own graph on the CPU."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common import nifti
from common.case import prepare
from common.errors import ConfigError, StoreError
from common.labels import MODALITIES
from common.layout import discover
from common.manifest import Manifest
from common.nifti import Geometry
from common.splits import ListSplits
from common.store import Store, StoreWriter
from train.augment import PARAMETERS, AugmentConfig, draw, generator
from train.loader import Batch, LoaderKind, Stream, open_feed

KINDS: tuple[LoaderKind, ...] = ("dali", "torch")
MakeStore = Callable[..., Store]
CPU = torch.device("cpu")

both = pytest.mark.parametrize("kind", KINDS)


def augment(probability: float) -> AugmentConfig:
    kinds = ("zoom", "flip", "noise", "blur", "brightness")
    return AugmentConfig.model_validate({f"{kind}_probability": probability for kind in kinds})


def stream_of(store: Store, probability: float = 0.5, **changes: object) -> Stream:
    cases = tuple(store.split("train"))
    stream = Stream(store, cases, MODALITIES, augment(probability), seed=3, batch_size=3)
    return replace(stream, **changes)


def take(kind: LoaderKind, stream: Stream, count: int, workers: int = 1) -> list[Batch]:
    with open_feed(kind, stream, CPU, workers) as batches:
        return [next(batches) for _ in range(count)]


def by_key(batches: list[Batch]) -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
    return {
        (batch.epoch, case_id): (batch.image[n], batch.label[n])
        for batch in batches
        for n, case_id in enumerate(batch.case_ids)
    }


Collect = Callable[[LoaderKind, float], list[Batch]]


@pytest.fixture(scope="module")
def collected(store: Store) -> Collect:
    """Twenty epochs of the four training cases, in batches of three and one."""

    @cache
    def collect(kind: LoaderKind, probability: float) -> list[Batch]:
        return take(kind, stream_of(store, probability), 40)

    return collect


# The order of samples


def order(stream: Stream, epoch: int) -> tuple[str, ...]:
    return tuple(key.case_id for key in stream.order(epoch))


def test_the_order_is_a_shuffle_by_seed_and_epoch(store: Store) -> None:
    cases = tuple(f"case-{n}" for n in range(12))
    stream = stream_of(store, case_ids=cases)
    orders = [order(stream, epoch) for epoch in range(1, 30)]
    assert all(set(order) == set(cases) and len(order) == 12 for order in orders)
    assert len(set(orders)) == len(orders)
    assert len({order[0] for order in orders}) > 5
    assert order(stream_of(store, case_ids=cases[::-1], batch_size=7), 4) == order(stream, 4)
    assert order(replace(stream, seed=4), 1) != orders[0]


@given(data=st.data(), cases=st.integers(1, 20), size=st.integers(1, 25))
def test_steps_pass_over_every_epoch_once(
    store: Store, data: st.DataObject, cases: int, size: int
) -> None:
    skip = data.draw(st.integers(0, cases - 1))
    ids = tuple(f"case-{n}" for n in range(cases))
    stream = stream_of(store, case_ids=ids, batch_size=size, first_epoch=5, skip=skip)
    index = 0
    for epoch, begin in ((5, skip), (6, 0), (7, 0)):
        seen: list[str] = []
        last = False
        while not last:
            step = stream.step(index)
            assert step.epoch == epoch
            seen += step.case_ids
            last = step.last
            assert len(step.case_ids) == size or last
            index += 1
        assert tuple(seen) == order(stream, epoch)[begin:]


@pytest.mark.parametrize("changes", [{"skip": 4}, {"skip": -1}, {"case_ids": ()}])
def test_a_stream_without_samples_is_refused(store: Store, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"skip is -?[0-9] of [0-9] samples"):
        stream_of(store, **changes)


# Samples


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_both_loaders_give_the_same_samples(collected: Collect, probability: float) -> None:
    pairs = list(zip(*(collected(kind, probability) for kind in KINDS), strict=True))
    for dali, torches in pairs:
        assert (dali.case_ids, dali.epoch, dali.last) == (
            torches.case_ids,
            torches.epoch,
            torches.last,
        )
        assert dali.image.dtype == torches.image.dtype == torch.float16
        assert dali.label.dtype == torches.label.dtype == torch.uint8
        torch.testing.assert_close(dali.label, torches.label, rtol=0, atol=0)
        # Both round to float16 at the end, whose steps are 2⁻¹⁰ of a value.
        torch.testing.assert_close(dali.image, torches.image, rtol=1.1e-3, atol=1e-3)
    images = [image for batch, _ in pairs for image in batch.image]
    assert len({image.numpy().tobytes() for image in images}) == len(images) == 80


@both
def test_a_sample_depends_on_seed_epoch_and_case_alone(
    store: Store, collected: Collect, kind: LoaderKind
) -> None:
    before = by_key(collected(kind, 0.5))
    # From the third sample of the second epoch on, in batches of two, by two workers.
    stream = stream_of(store, batch_size=2, first_epoch=2, skip=1)
    after = by_key(take(kind, stream, 10, workers=2))
    assert len(after) == 3 + 4 * 4
    for key, (image, label) in after.items():
        assert (image.view(torch.int16) == before[key][0].view(torch.int16)).all()
        assert (label == before[key][1]).all()
    other = by_key(take(kind, replace(stream, seed=4), 2))
    assert any((other[key][0] != before[key][0]).any() for key in other)


@both
def test_epochs_follow_each_other_and_end_with_a_smaller_batch(
    store: Store, collected: Collect, kind: LoaderKind
) -> None:
    batches = collected(kind, 0.5)
    assert [len(batch.image) for batch in batches] == [3, 1] * 20
    assert [len(batch.label) for batch in batches] == [3, 1] * 20
    assert [batch.last for batch in batches] == [False, True] * 20
    assert [batch.epoch for batch in batches] == [n // 2 + 1 for n in range(40)]
    first = order(stream_of(store), 1)
    assert (batches[0].case_ids, batches[1].case_ids) == (first[:3], first[3:])
    assert batches[0].image.shape == (3, 4, 16, 16, 16)
    assert batches[0].label.shape == (3, 16, 16, 16)


@both
def test_without_augmentation_samples_are_the_stored_bits(
    store: Store, collected: Collect, kind: LoaderKind
) -> None:
    for (_, case_id), (image, label) in by_key(collected(kind, 0.0)).items():
        stored = store.read_crop(case_id)
        assert (image.numpy().view(np.uint16) == stored[0].view(np.uint16)).all()
        assert (label.numpy() == stored[1]).all()


def test_float32_stores_and_some_of_the_modalities(make_store: MakeStore) -> None:
    store = make_store(dtype="float32")
    modalities = ("t2", "flair")
    stream = stream_of(store, 0.0, modalities=modalities)
    with (
        open_feed("dali", stream, CPU, 1) as dali,
        open_feed("torch", replace(stream, augment=augment(1.0)), CPU, 1) as augmented,
        open_feed("dali", replace(stream, augment=augment(1.0)), CPU, 1) as same,
    ):
        for (_, case_id), (image, _) in by_key([next(dali), next(dali)]).items():
            stored = store.read_crop(case_id)[0]
            assert stored.dtype == np.float32
            expected = stored[[MODALITIES.index(name) for name in modalities]].astype(np.float16)
            assert (image.numpy() == expected).all()
        for _ in range(6):
            one, other = next(augmented), next(same)
            assert one.image.shape[1] == 2
            torch.testing.assert_close(one.image, other.image, rtol=1.1e-3, atol=1e-3)
            assert (one.label == other.label).all()


# The label follows the image

LANDMARK = (slice(9, 14), slice(10, 14), slice(8, 14))
SIDE = 24


@pytest.fixture(scope="module")
def landmark(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A bright box in all modalities and in the label, which no window of the crop cuts."""
    folder = tmp_path_factory.mktemp("landmark")
    data = folder / "data" / "one"
    data.mkdir(parents=True)
    geometry = Geometry((SIDE,) * 3, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    for n, modality in enumerate(MODALITIES):
        image = np.full((SIDE,) * 3, 100, np.int16)
        image[LANDMARK] = 1000 + 100 * n
        nifti.write(data / f"one_{modality}.nii.gz", image, geometry)
    label = np.zeros((SIDE,) * 3, np.uint8)
    label[LANDMARK] = 4
    nifti.write(data / "one_seg.nii.gz", label, geometry)
    splits = ListSplits(kind="lists", train=("one",))
    manifest = Manifest(crop=(SIDE,) * 3, splits=splits)
    writer = StoreWriter.create(folder / "cases.zarr", manifest)
    (files,) = discover(folder / "data", manifest).cases
    writer.write(prepare(files, manifest), *writer.allocate(1))
    return Store.open(writer.path)


def centre(weights: np.ndarray) -> np.ndarray:
    """(z, y, x) of the centre of mass."""
    where = np.indices(weights.shape)
    return (where * weights.astype(float)).sum(axis=(1, 2, 3)) / weights.astype(float).sum()


@both
def test_a_landmark_stays_on_its_label(landmark: Store, kind: LoaderKind) -> None:
    config = AugmentConfig(
        zoom_probability=0.9,
        flip_probability=0.5,
        noise_probability=0,
        blur_probability=0,
        brightness_probability=0,
    )
    stream = stream_of(landmark, augment=config, batch_size=1)
    box = landmark.read_crop("one")[1] == 3
    for batch in take(kind, stream, 40):
        drawn = draw(config, landmark.crop, generator(3, batch.epoch, "one", PARAMETERS))
        expected = centre(box)
        if drawn.zoom:
            expected = (expected + 0.5 - drawn.zoom.start) / drawn.zoom.scales - 0.5
        expected = np.where(drawn.flips, SIDE - 1 - expected, expected)
        label = batch.label[0].numpy()
        assert set(np.unique(label)) == {0, 3}
        assert abs(centre(label) - expected).max() < 0.51
        for channel in batch.image[0].numpy():
            assert abs(centre(channel - channel[0, 0, 0]) - expected).max() < 0.05


# What can go wrong


@both
def test_a_damaged_case_is_named(make_store: MakeStore, kind: LoaderKind) -> None:
    store = make_store()
    damaged = store.split("train")[2]
    row = store.record(damaged).row
    shard = Path(store.path) / f"crops/image/c/{row}/0/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(StoreError) as direct:
        store.read_crop(damaged)
    stream = stream_of(store)
    seen: list[str] = []

    def learn() -> None:
        with open_feed(kind, stream, CPU, 1) as batches:
            for batch in batches:
                seen.extend(batch.case_ids)

    with pytest.raises(StoreError) as through:
        learn()
    assert str(through.value) == str(direct.value)
    assert damaged in str(through.value)
    # Every batch before the damaged case's came first.
    first = order(stream, 1)
    assert tuple(seen) == first[: 3 * (first.index(damaged) // 3)]
    assert multiprocessing.active_children() == []


@both
def test_too_little_shared_memory_is_said_before_anything_starts(
    store: Store, kind: LoaderKind
) -> None:
    stream = stream_of(store, batch_size=10**9)
    words = r"/shm has \d+ MB free, the loader needs \d+ MB; .*--shm-size=\d+g.*batch_size"
    with pytest.raises(ConfigError, match=words), open_feed(kind, stream, CPU, 1):
        pass
    assert multiprocessing.active_children() == []


@both
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_workers_end_with_the_feed(
    store: Store, kind: LoaderKind, error: type[BaseException] | None
) -> None:
    random_state = torch.get_rng_state()
    try:
        with open_feed(kind, stream_of(store, batch_size=2), CPU, 1) as batches:
            kept = [next(batches) for _ in range(3)]
            copies = [batch.image.clone() for batch in kept]
            for _ in range(3):
                next(batches)
            workers = [psutil.Process(child.pid) for child in multiprocessing.active_children()]
            if error:
                raise error
    except (ValueError, KeyboardInterrupt) as raised:
        # Here the traceback still holds everything that was in use.
        assert type(raised) is error  # noqa: PT017 - looked at while it is being handled
        assert multiprocessing.active_children() == []
    assert len(workers) == 1
    assert not workers[0].is_running()
    # A batch is the consumer's to keep, and torch's random numbers are its own.
    assert all(torch.equal(batch.image, copy) for batch, copy in zip(kept, copies, strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)


SCRIPT = """
import sys, torch
from common.store import Store
from train.augment import AugmentConfig
from train.loader import Stream, open_feed
kind, path, batches = sys.argv[1:]
store = Store.open(path)
stream = Stream(store, tuple(store.split("train")), ("flair",), AugmentConfig(), 0, 1)
with open_feed(kind, stream, torch.device("cpu"), 2) as feed:
    for n in range(int(batches)):
        next(feed)
        print(n, flush=True)
"""


def start(kind: LoaderKind, store: Store, batches: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, kind, store.path, str(batches)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@both
def test_nothing_is_said_at_exit(store: Store, kind: LoaderKind) -> None:
    program = start(kind, store, 3)
    _, errors = program.communicate(timeout=120)
    assert (program.returncode, errors) == (0, "")


@pytest.mark.slow
@both
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_program(
    store: Store, kind: LoaderKind, number: signal.Signals
) -> None:
    program = start(kind, store, 10**9)
    assert program.stdout is not None
    for _ in range(3):
        program.stdout.readline()
    children = psutil.Process(program.pid).children(recursive=True)
    assert len(children) >= 2
    if number == signal.SIGINT:
        # As a terminal sends it: to the workers too, which leave it to the program.
        os.killpg(program.pid, number)
    else:
        program.kill()
    _, errors = program.communicate(timeout=120)
    assert program.returncode == -number
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    if number == signal.SIGINT:
        assert errors.count("Traceback") == 1
        assert errors.rstrip().endswith("KeyboardInterrupt")
