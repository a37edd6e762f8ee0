"""What each augmentation does, by DALI's graph and by torch alike."""

from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import pipeline_def

from train.data.augment import AugmentConfig, generator
from train.data.augmentation import Augmentation, Drawn
from train.data.intensity import Brightness, Contrast, Gamma, LowResolution, Noise
from train.data.spatial import Elastic, Rotation, Zoom

Pair = tuple[np.ndarray, np.ndarray]
"""Image (M, D, H, W) and label (D, H, W)."""

SHAPES = ((3, 20, 24, 22), (2, 1, 24, 20))
"""Of a volume and of a slice."""

ALWAYS: tuple[Augmentation, ...] = (
    *(type(each)(probability=1) for each in AugmentConfig().in_order()),
    Zoom(probability=1, range=(1.0, 1.4)),
    Noise(probability=1, keep_background=True),
    Brightness(probability=1, per_modality=True),
)
KEEPS_BACKGROUND = (
    Noise(probability=1, keep_background=True),
    Brightness(probability=1, per_modality=True),
    Contrast(probability=1),
    Gamma(probability=1),
    LowResolution(probability=1),
)


def sample(shape: tuple[int, int, int, int]) -> Pair:
    """Smooth structures in an ellipsoid on background 0, as z-scores, and a label of its middle."""
    random = np.random.default_rng(5)
    axes = [np.linspace(-1, 1, side + 2)[1:-1] for side in shape[1:]]
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    image = random.standard_normal(shape).astype(np.float32)
    image += np.linspace(-2, 4, shape[3], dtype=np.float32)
    image *= radius < 0.9
    return image, ((radius < 0.5) * 1 + (radius < 0.3)).astype(np.uint8)


def drawn_by(augmentation: Augmentation, shape: tuple[int, int, int, int], seed: int) -> Drawn:
    found = augmentation.draw(generator(seed, 1, "case", None, "name"), shape)
    assert found is not None
    return found


def by_torch(augmentation: Augmentation, pair: Pair, drawn: Drawn) -> Pair:
    image, label = augmentation.apply_torch(*map(torch.from_numpy, pair), drawn)
    return image.numpy(), label.numpy()


def by_dali(augmentation: Augmentation, pair: Pair, drawn: Drawn) -> Pair:
    arrays = [pair[0], pair[1][None], *drawn]
    layouts = ["CDHW", "CDHW", *[""] * len(drawn)]

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def graph() -> tuple[Any, ...]:
        image, label, *own = fn.external_source(
            source=lambda: [[array] for array in arrays], num_outputs=len(arrays), layout=layouts
        )
        return tuple(augmentation.apply_dali(image, label, own))

    image, label = graph().run()
    assert (image.layout(), label.layout()) == ("CDHW", "CDHW")
    return np.array(image.at(0)), np.array(label.at(0))[0]


@pytest.mark.parametrize("shape", SHAPES, ids=["volume", "slice"])
@pytest.mark.parametrize("augmentation", ALWAYS, ids=lambda each: type(each).__name__)
def test_dali_does_what_torch_does(
    augmentation: Augmentation, shape: tuple[int, int, int, int]
) -> None:
    pair = sample(shape)
    for seed in range(3):
        drawn = drawn_by(augmentation, shape, seed)
        one, other = (way(augmentation, pair, drawn) for way in (by_dali, by_torch))
        assert one[0].shape == pair[0].shape
        assert (one[1] == other[1]).all()
        np.testing.assert_allclose(one[0], other[0], rtol=2e-5, atol=2e-5)
        assert (one[0] != pair[0]).any()


@pytest.mark.parametrize("augmentation", KEEPS_BACKGROUND, ids=lambda each: type(each).__name__)
def test_background_stays_0_and_labels_stay(augmentation: Augmentation) -> None:
    pair = sample(SHAPES[0])
    image, label = by_torch(augmentation, pair, drawn_by(augmentation, SHAPES[0], 0))
    assert (image[pair[0] == 0] == 0).all()
    assert (label == pair[1]).all()


@pytest.mark.parametrize("augmentation", ALWAYS, ids=lambda each: type(each).__name__)
def test_an_image_of_background_stays_finite(augmentation: Augmentation) -> None:
    image, label = sample(SHAPES[0])
    image[1] = 0
    changed, _ = by_torch(augmentation, (image, label), drawn_by(augmentation, SHAPES[0], 1))
    assert np.isfinite(changed).all()


def test_gamma_keeps_mean_and_deviation_of_a_brain_and_the_order_of_its_values() -> None:
    image, label = sample(SHAPES[0])
    gamma = Gamma(probability=1, range=(1.4, 1.5))
    changed, _ = by_torch(gamma, (image, label), drawn_by(gamma, SHAPES[0], 0))
    for before, after in zip(image, changed, strict=True):
        old, new = before[before != 0], after[before != 0]
        assert new.mean() == pytest.approx(old.mean(), abs=1e-4)
        assert new.std() == pytest.approx(old.std(), abs=1e-4)
        assert (np.diff(new[np.argsort(old)]) >= -1e-5).all()
        assert np.median(new) < np.median(old)


def test_contrast_stays_in_the_range_of_the_modality() -> None:
    image, label = sample(SHAPES[0])
    contrast = Contrast(probability=1, range=(1.5, 1.5))
    changed, _ = by_torch(contrast, (image, label), drawn_by(contrast, SHAPES[0], 0))
    expected = np.clip(
        1.5 * image, image.min((1, 2, 3), keepdims=True), image.max((1, 2, 3), keepdims=True)
    )
    np.testing.assert_allclose(changed, expected, rtol=1e-6)


def test_low_resolution_changes_some_modalities_and_takes_their_detail() -> None:
    image, label = sample(SHAPES[0])
    low = LowResolution(probability=1, range=(0.5, 0.6))
    counts = set()
    for seed in range(12):
        changed, _ = by_torch(low, (image, label), drawn_by(low, SHAPES[0], seed))
        detail = [
            np.abs(np.diff(after, axis=0)).mean() / np.abs(np.diff(before, axis=0)).mean()
            for before, after in zip(image, changed, strict=True)
        ]
        assert all(share < 0.8 or share == 1 for share in detail)
        counts.add(sum(share < 1 for share in detail))
    assert counts == {1, 2, 3}


def test_brightness_per_modality_has_a_factor_for_each() -> None:
    image, label = sample(SHAPES[0])
    bright = Brightness(probability=1, per_modality=True)
    changed, _ = by_torch(bright, (image, label), drawn_by(bright, SHAPES[0], 0))
    factors = [
        float(np.median(after[before != 0] / before[before != 0]))
        for before, after in zip(image, changed, strict=True)
    ]
    assert len({round(factor, 3) for factor in factors}) == 3
    assert all(0.7 <= factor <= 1.3 for factor in factors)


def test_zooming_out_shrinks_the_label_and_surrounds_it_with_background() -> None:
    image, label = sample(SHAPES[0])
    image += 10 * (image == 0)
    zoom = Zoom(probability=1, range=(1.4, 1.4))
    shrunk, its_label = by_torch(zoom, (image, label), drawn_by(zoom, SHAPES[0], 0))
    assert (its_label > 0).sum() == pytest.approx((label > 0).sum() / 1.4**3, rel=0.1)
    assert (shrunk[0] != 0).sum() == pytest.approx(image[0].size / 1.4**3, rel=0.15)


def test_a_rotation_back_restores_the_middle() -> None:
    _, label = sample(SHAPES[0])
    z, y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in label.shape)
    image = np.exp(-3 * (z[:, None, None] ** 2 + (y[:, None] - 0.2) ** 2 + x**2))[None]
    rotation = Rotation(probability=1, degrees=(10, 15))
    (there,) = drawn_by(rotation, SHAPES[0], 0)
    back = np.linalg.inv(np.vstack([there, [0, 0, 0, 1]]))[:3].astype(np.float32)
    turned = by_torch(rotation, (image, label), (there,))
    restored, its_label = by_torch(rotation, turned, (back,))
    middle = (slice(None), *[slice(6, -6)] * 3)
    assert np.abs(turned[0] - image)[middle].max() > 0.1
    assert np.abs(restored - image)[middle].max() < 0.05
    assert ((its_label > 0) == (label > 0)).mean() > 0.98


def test_elastic_moves_each_voxel_by_the_shifts_of_its_lines() -> None:
    """Of whole voxels here, so that nothing is interpolated."""
    image, label = sample(SHAPES[0])
    elastic = Elastic(probability=1, range_voxels=(3, 3))
    drawn = drawn_by(elastic, SHAPES[0], 0)
    shifts = [np.round(maps[:, 0, 2]) for maps in drawn[:3]]
    assert [np.abs(maps[:, 0, 2]).max() for maps in drawn[:3]] == [3, 3, 3]
    maps = [each.copy() for each in drawn[:3]]
    for each, shift in zip(maps, shifts, strict=True):
        each[:, 0, 2] = shift
    bent, its_label = by_torch(elastic, (image, label), tuple(maps))
    # Each voxel comes from where the three shifts, the last first, say.
    z, y, x = np.indices(label.shape)
    depth, height, width = label.shape
    along_x, along_y, along_z = (
        shift.reshape(sides).astype(int)
        for shift, sides in zip(
            shifts, ((depth, height), (width, depth), (height, width)), strict=True
        )
    )
    z = z + along_z[y, x]
    kept = (z >= 0) & (z < depth)
    z = z.clip(0, depth - 1)
    y = y + along_y[x, z]
    kept &= (y >= 0) & (y < height)
    y = y.clip(0, height - 1)
    x = x + along_x[z, y]
    kept &= (x >= 0) & (x < width)
    x = x.clip(0, width - 1)
    assert (its_label == label[z, y, x] * kept).all()
    assert (bent == image[:, z, y, x] * kept).all()
    assert (its_label != label).any()


def test_slices_are_bent_and_turned_in_their_plane_only() -> None:
    (matrix,) = drawn_by(Rotation(probability=1), SHAPES[1], 0)
    assert matrix[2].tolist() == [0, 0, 1, 0]
    along_x, along_y, along_z, _ = drawn_by(Elastic(probability=1), SHAPES[1], 0)
    assert along_x[:, 0, 2].any()
    assert along_y[:, 0, 2].any()
    assert not along_z[:, 0, 2].any()
