"""Image, mask and every modality move together: a planted landmark stays on its label."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from streams import CPU, augment, mainly_dali

from common import nifti
from common.case import prepare
from common.discovery import discover
from common.geometry import Geometry
from common.manifest import Manifest
from common.splits import ListSplits
from common.store import Store, StoreWriter
from common.task import MODALITIES
from train.data.augment import AUGMENTATIONS, AugmentConfig, Draws, generator
from train.data.augmentation import Drawn
from train.data.loader import LoaderKind, open_feed
from train.data.spatial import STEPS, Elastic, Rotation, Zoom
from train.data.stream import Sample, Stream
from train.data.torch_loader import augmented

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


def zoomed(point: np.ndarray, drawn: Drawn) -> np.ndarray:
    """Where a zoom takes a point (z, y, x)."""
    size, start, stop, *_ = drawn[0]
    return (point + 0.5 - start) / ((stop - start) / size) - 0.5


def moved(point: np.ndarray, draws: Draws, shape: tuple[int, int, int]) -> np.ndarray:
    """Where a point of the stored crop comes to lie."""
    found = dict(zip(AUGMENTATIONS, draws, strict=True))
    if found["zoom"]:
        point = zoomed(point, found["zoom"])
    flips = found["flip"][0] if found["flip"] else np.zeros(3)
    return np.where(flips, np.asarray(shape) - 1 - point, point)


def assert_landmark_at(expected: np.ndarray, image: np.ndarray, label: np.ndarray) -> None:
    """In every modality (M, D, H, W) and in the label (D, H, W)."""
    assert set(np.unique(label)) == {0, 3}
    assert abs(centre(label) - expected).max() < 0.51  # a nearest voxel is half a voxel off
    for channel in image:  # cubic samples of a blob move its centre by some hundredths of a voxel
        assert abs(centre(channel - channel[0, 0, 0]) - expected).max() < 0.1


@mainly_dali
@pytest.mark.parametrize("dims", [2, 3])
def test_a_landmark_stays_on_its_label(
    landmark: Store, kind: LoaderKind, dims: Literal[2, 3]
) -> None:
    config = augment(0, zoom={"probability": 0.7}, flip={"probability": 0.5})
    size = SIDE if dims == 2 else 1
    stream = Stream(landmark, ("one",), MODALITIES, config, seed=3, batch_size=size, dims=dims)
    zoomed, flips = set(), set()
    with open_feed(kind, stream, CPU, 1) as feed:
        for _ in range(8 if dims == 2 else 40):  # 40 that hold the landmark
            batch = next(feed)
            for n, plane in enumerate(batch.planes or [None]):
                draws = config.draw(stream.image_shape, 3, batch.epoch, "one", plane)
                image, label = batch.image[n].numpy(), batch.label[n].numpy()
                if plane is not None:
                    if not LANDMARK[0].start <= plane < LANDMARK[0].stop:
                        assert not label.any()
                        continue
                    image, label = image[:, np.newaxis], label[np.newaxis]
                box = landmark.read_crop("one")[1] == 3
                point = centre(box if plane is None else box[[plane]])
                assert_landmark_at(moved(point, draws, stream.shape), image, label)
                zoom, flip = (draws[AUGMENTATIONS.index(name)] for name in ("zoom", "flip"))
                zoomed.add(zoom is not None)
                flips.add(tuple(flip[0].tolist()) if flip else (0, 0, 0))
    assert zoomed == {True, False}
    assert len(flips) == 2**dims
    assert not any(flip_z for flip_z, _, _ in flips) or dims == 3


@st.composite
def samples(drawing: st.DrawFn) -> Sample:
    """A volume or a slice with the landmark, and what may be drawn for it, but noise.

    Blur keeps to the landmark's surroundings, since beyond the edge it mirrors the image.
    """
    shape = drawing(st.sampled_from([(SIDE,) * 3, (1, SIDE, SIDE), (20, SIDE, 22)]))
    window = LANDMARK if shape[0] > 1 else (slice(0, 1), *LANDMARK[1:])
    label = np.zeros(shape, np.uint8)
    label[window] = 3
    image = np.zeros((drawing(st.integers(1, 4)), *shape), np.float16)
    for n, channel in enumerate(image):
        channel[window] = 2 + n
    steps = drawing(st.integers(round(0.7 * STEPS), STEPS))
    shares = np.asarray([steps if side > 1 else STEPS for side in shape])
    start = np.asarray([drawing(st.integers(0, int(m))) for m in shape * (STEPS - shares)])
    zoom = np.stack([np.asarray(shape) * STEPS, start, start + shape * shares]) / STEPS
    zoom = np.vstack([zoom, np.zeros(3), shape])
    arrays = {
        "zoom": zoom.astype(np.float32),
        "flip": np.asarray(drawing(st.tuples(*[st.integers(0, 1)] * 3)), np.int32),
        "blur": np.asarray(drawing(st.floats(0.3, 0.5)), np.float32),
        "brightness": np.full((1, 1, 1, 1), drawing(st.floats(0.7, 1.3)), np.float32),
    }
    chosen = drawing(st.sets(st.sampled_from(sorted(arrays))))
    draws = tuple((arrays[name],) if name in chosen else None for name in AUGMENTATIONS)
    return Sample(image, label, draws)


@given(samples())
def test_whatever_is_drawn_moves_all_modalities_and_the_label_alike(sample: Sample) -> None:
    image, label = augmented(sample, AugmentConfig().in_order())
    expected = moved(centre(sample.label), sample.draws, sample.label.shape)
    assert_landmark_at(expected, image.numpy(), label.numpy())


def rotated(point: np.ndarray, drawn: Drawn) -> np.ndarray:
    """Where a rotation takes a point (z, y, x)."""
    (matrix,) = drawn
    moved_to = np.linalg.solve(matrix[:, :3], point[::-1] + 0.5 - matrix[:, 3])
    return moved_to[::-1] - 0.5


def bent(point: np.ndarray, drawn: Drawn) -> np.ndarray:
    """Where three shifts take a point (z, y, x): each along its axis, by its line's amount."""
    place = point.copy()
    for maps, (row, column, along) in zip(
        drawn[:3], ((0, 1, 2), (2, 0, 1), (1, 2, 0)), strict=True
    ):
        line = round(place[row]) * SIDE + round(place[column])
        place[along] -= maps[line, 0, 2]
    return place


@pytest.mark.parametrize("seed", range(4))
def test_shrinking_turning_and_bending_keep_a_landmark_on_its_label(seed: int) -> None:
    label = np.zeros((SIDE,) * 3, np.uint8)
    label[LANDMARK] = 3
    image = np.stack([label, 2 * label]).astype(np.float32)
    ways = (
        (Zoom(probability=1, range=(1.0, 1.4)), zoomed),
        (Rotation(probability=1), rotated),
        (Elastic(probability=1, half_waves=1, range_voxels=(2, 3)), bent),
    )
    for augmentation, expect in ways:
        drawn = augmentation.draw(generator(seed, 1, "one", None, "any"), image.shape)
        assert drawn is not None
        found, its_label = augmentation.apply_torch(
            torch.from_numpy(image), torch.from_numpy(label), drawn
        )
        expected = expect(centre(label), drawn)
        assert abs(centre(its_label.numpy()) - expected).max() < 0.51
        for channel in found.numpy():
            assert abs(centre(channel) - expected).max() < 0.35
