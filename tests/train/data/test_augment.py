import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from streams import augment

from train.data.augment import (
    AUGMENTATIONS,
    AugmentConfig,
    Brightness,
    Draws,
    Noise,
    generator,
)
from train.data.spatial import Zoom

SHAPE = (2, 12, 10, 14)
CROP = np.asarray(SHAPE[1:])


def draws(config: AugmentConfig, count: int) -> list[Draws]:
    return [config.draw(SHAPE, 0, 1, f"case-{n}") for n in range(count)]


def drawn(name: str, found: list[Draws], part: int = 0) -> np.ndarray:
    """One array of an augmentation's draws, of those samples that it is drawn for."""
    own = [each[AUGMENTATIONS.index(name)] for each in found]
    return np.stack([arrays[part] for arrays in own if arrays is not None])


def same(one: object, other: object) -> bool:
    return repr(one) == repr(other)


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("zoom", "probability", 1.5, "less than or equal to 1"),
        ("flip", "probability", -0.1, "greater than or equal to 0"),
        ("zoom", "range", (0.0, 1.0), "greater than or equal to 0.1"),
        ("zoom", "range", (0.7, 2.1), "less than or equal to 2"),
        ("noise", "range", (0.33, 0.0), "lower bound 0.33 is above the upper bound 0.0"),
        ("noise", "range", (0.0, float("inf")), "finite"),
        ("blur", "range", (0.0, 1.5), "greater than 0"),
        ("brightness", "range", (-1.0, 1.3), "greater than 0"),
        ("brightness", "range", (0.7,), "Field required"),
        ("flip", "range", (0.0, 1.0), "Extra inputs"),
        ("unknown", "probability", 0.5, "Extra inputs"),
    ],
)
def test_values_that_make_no_sense_are_refused(
    name: str, key: str, value: object, words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        AugmentConfig.model_validate({name: {key: value}})


def test_nothing_is_drawn_at_probability_0_and_everything_at_1() -> None:
    assert {each for found in draws(augment(0), 200) for each in found} == {None}
    assert None not in [each for found in draws(augment(1), 200) for each in found]
    assert drawn("flip", draws(augment(1), 200)).all()


def test_a_placeholder_has_the_types_and_axes_of_a_draw() -> None:
    (found,) = draws(augment(1), 1)
    for augmentation, arrays in zip(augment(1).in_order(), found, strict=True):
        assert arrays is not None
        for array, other in zip(arrays, augmentation.placeholder, strict=True):
            assert (array.dtype, array.ndim) == (other.dtype, other.ndim)
        assert sum(array.nbytes for array in arrays) <= augmentation.most_bytes(SHAPE)


def assert_uniform(shares: np.ndarray) -> None:
    """Numbers from 0 to 1: in ten equal parts, each count within 5 standard deviations."""
    expected = len(shares) / 10
    counts = np.histogram(shares, 10, (0, 1))[0]
    assert counts.sum() == len(shares)
    assert abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_amounts_fill_their_ranges_and_stay_inside() -> None:
    found = draws(augment(1), 2000)
    size, start, stop, *_ = np.moveaxis(drawn("zoom", found), 1, 0)
    assert (size == CROP).all()
    assert_uniform(np.round(((stop - start) / size)[:, 0] * 1024 - 716.5) / 308)
    assert_uniform(drawn("noise", found) / 0.33)
    assert_uniform(drawn("blur", found) - 0.5)
    assert_uniform((drawn("brightness", found) - 0.7).clip(0) / 0.6)


def test_windows_lie_anywhere_in_the_crop() -> None:
    found = draws(augment(1, zoom={"range": (0.7, 0.9)}), 2000)
    size, start, stop, *_ = np.moveaxis(drawn("zoom", found), 1, 0)
    for shares in (start / (size - (stop - start))).T:
        assert_uniform(shares)


def test_how_often() -> None:
    rates = dict(zip(AUGMENTATIONS, np.linspace(0.1, 0.9, len(AUGMENTATIONS)), strict=True))
    config = {name: {"probability": rate} for name, rate in rates.items()}
    found = draws(AugmentConfig.model_validate(config), 2000)
    happened = {
        name: np.asarray([each[number] is not None for each in found])
        for number, name in enumerate(AUGMENTATIONS)
    }
    flips = [each[AUGMENTATIONS.index("flip")] for each in found]
    axes = [np.zeros(3) if flip is None else flip[0] for flip in flips]
    happened |= {f"flip {n}": axis for n, axis in enumerate(np.stack(axes, axis=1))}
    del happened["flip"]
    for name, each in happened.items():
        rate = rates[name.split()[0]]
        assert abs(each.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / len(found)), name
    # One does not come with another.
    together = np.corrcoef(np.stack(list(happened.values()))) - np.eye(len(happened))
    assert abs(together).max() < 5 / np.sqrt(len(found))


@given(
    crop=st.tuples(*[st.integers(1, 512)] * 3),
    bounds=st.tuples(st.floats(0.1, 2), st.floats(0.1, 2)).map(sorted).map(tuple),
    seed=st.integers(0, 2**63 - 1),
)
def test_positions_are_exact_in_float32(
    crop: tuple[int, int, int], bounds: tuple[float, float], seed: int
) -> None:
    random = generator(seed, 1, "case", None, "zoom")
    found = Zoom(probability=1, range=bounds).draw(random, (1, *crop))
    assert found is not None
    for size, start, stop, *_ in found[0].T:
        assert (0 <= start <= stop <= size) or (start <= 0 < size <= stop)
        step, side = (stop - start) / size, int(size)
        exact = float(start) + (np.arange(side) + 0.5) * (float(stop) - float(start)) / side
        once = start + (np.arange(side, dtype=np.float32) + np.float32(0.5)) * step
        summed = np.cumsum([start + step / 2, *[step] * (side - 1)], dtype=np.float32)
        assert (once == exact).all()
        assert (summed == exact).all()
        assert side > 1 or (start, stop) == (0, 1)


KEY = (0, 1, "a", None)
"""Seed, epoch, case and plane."""


def test_a_draw_depends_on_seed_epoch_case_and_plane_and_on_nothing_else() -> None:
    keys = [(s, e, case, p) for s in (0, 1) for e in (1, 2) for case in "ab" for p in (None, 0, 1)]
    first = {key: augment(1).draw(SHAPE, *key) for key in keys}
    for key in reversed(keys):
        assert same(first[key], augment(1).draw(SHAPE, *key))
    assert len({repr(found) for found in first.values()}) == len(keys)


@given(
    name=st.sampled_from(AUGMENTATIONS),
    probabilities=st.tuples(*[st.floats(0, 1)] * 2),
    seed=st.integers(0, 2**63 - 1),
    plane=st.none() | st.integers(0, 127),
)
def test_changing_one_leaves_the_others_as_they_were(
    name: str, probabilities: tuple[float, float], seed: int, plane: int | None
) -> None:
    before, after = (
        augment(0.5, **{name: {"probability": p}}).draw(SHAPE, seed, 1, "case", plane)
        for p in probabilities
    )
    for other, old, new in zip(AUGMENTATIONS, before, after, strict=True):
        assert other == name or same(old, new)


def test_an_augmentation_more_leaves_the_others_as_they_were() -> None:
    class More(AugmentConfig):
        another: Brightness = Brightness(probability=1)

    names = ("another", *AUGMENTATIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.data.augment.AUGMENTATIONS", names)
        another, *others = More(**dict(augment(1))).draw(SHAPE, *KEY)
    assert same(tuple(others), augment(1).draw(SHAPE, *KEY))
    assert not same(another, others[-1])


def test_one_image_is_taken_away_each_as_often_as_the_others() -> None:
    shape = (4, *SHAPE[1:])
    found = [
        augment(0, modality_dropout={"probability": 0.5}).draw(shape, 0, 1, f"case-{n}")[-1]
        for n in range(2000)
    ]
    kept = np.stack([arrays[0].ravel() for arrays in found if arrays])
    assert abs(len(kept) - 1000) < 5 * np.sqrt(500)
    assert (kept.sum(axis=1) == 3).all()
    assert abs((kept == 0).sum(axis=0) - len(kept) / 4).max() < 5 * np.sqrt(len(kept) * 3 / 16)


def test_a_single_image_is_never_taken_away() -> None:
    found = [augment(1).draw((1, *SHAPE[1:]), 0, 1, f"case-{n}")[-1] for n in range(20)]
    assert found == [None] * 20


def test_noise_is_standard_normal_and_its_own() -> None:
    shape = (2, 40, 30, 20)

    def field(*key: object) -> np.ndarray:
        found = Noise(probability=1).draw(generator(*key, None, "noise"), shape)
        assert found is not None
        assert found[1].dtype == np.float16
        return found[1].astype(float)

    noise = field(0, 1, "a")
    assert noise.shape == shape
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    assert abs((np.abs(noise) < 1).mean() - 0.6827) < 0.02
    for key in ((1, 1, "a"), (0, 2, "a"), (0, 1, "b")):
        assert abs(np.corrcoef(field(*key).ravel(), noise.ravel())[0, 1]) < 0.03


def test_what_workers_run_needs_neither_torch_nor_dali() -> None:
    heavy = "{'torch', 'nvidia', 'scipy.ndimage'}"
    code = f"import sys, train.data.dali_source; print({heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
