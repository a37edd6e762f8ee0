import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from train.data.augment import (
    NOISE,
    PARAMETERS,
    AugmentConfig,
    Draw,
    draw,
    generator,
    noise_field,
)

CROP = (64, 48, 80)
KINDS = ("zoom", "flip", "noise", "blur", "brightness")


def config(probability: float, **changes: object) -> AugmentConfig:
    each = {f"{kind}_probability": probability for kind in KINDS}
    return AugmentConfig.model_validate(each | changes)


def draws(augment: AugmentConfig, count: int) -> list[Draw]:
    return [draw(augment, CROP, generator(0, 1, f"case-{n}", PARAMETERS)) for n in range(count)]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("zoom_probability", 1.5, "less than or equal to 1"),
        ("flip_probability", -0.1, "greater than or equal to 0"),
        ("zoom_range", (0.0, 1.0), "greater than or equal to 0.1"),
        ("zoom_range", (0.7, 1.2), "less than or equal to 1"),
        ("noise_range", (0.33, 0.0), "lower bound 0.33 is above the upper bound 0.0"),
        ("noise_range", (0.0, float("inf")), "finite"),
        ("blur_range", (0.0, 1.5), "greater than 0"),
        ("brightness_range", (-1.0, 1.3), "greater than 0"),
        ("brightness_range", (0.7,), "Field required"),
        ("gamma_probability", 0.5, "Extra inputs"),
    ],
)
def test_values_that_make_no_sense_are_refused(key: str, value: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AugmentConfig.model_validate({key: value})


def test_nothing_is_drawn_at_probability_0() -> None:
    assert set(draws(config(0), 200)) == {Draw()}


def test_everything_is_drawn_at_probability_1() -> None:
    for drawn in draws(config(1), 200):
        assert None not in (drawn.zoom, drawn.noise_sigma, drawn.blur_sigma, drawn.brightness)
        assert drawn.flips == (True, True, True)


def test_amounts_fill_their_ranges_and_stay_inside() -> None:
    found = draws(config(1), 3000)
    amounts = {
        (0.7, 1.0): [drawn.zoom.scales[0] for drawn in found if drawn.zoom],
        (0.0, 0.33): [drawn.noise_sigma for drawn in found],
        (0.5, 1.5): [drawn.blur_sigma for drawn in found],
        (0.7, 1.3): [drawn.brightness for drawn in found],
    }
    for (low, high), values in amounts.items():
        share = (np.asarray(values, float) - low) / (high - low)
        assert share.min() > -0.003
        assert share.max() < 1.003
        # Uniform: 3000 numbers in ten equal parts, each within 5 standard deviations.
        counts = np.histogram(share, 10, (-0.003, 1.003))[0]
        assert abs(counts - 300).max() < 5 * np.sqrt(300)


def test_windows_lie_anywhere_in_the_crop() -> None:
    found = draws(config(1, zoom_range=(0.7, 0.9)), 3000)
    zooms = [drawn.zoom for drawn in found if drawn.zoom]
    for axis, side in enumerate(CROP):
        share = np.asarray([zoom.start[axis] / (side * (1 - zoom.scales[axis])) for zoom in zooms])
        counts = np.histogram(share, 10, (0, 1))[0]
        assert counts.sum() == len(zooms)
        assert abs(counts - 300).max() < 5 * np.sqrt(300)


def test_how_often() -> None:
    rates = dict(zip(KINDS, (0.1, 0.3, 0.5, 0.7, 0.9), strict=True))
    found = draws(AugmentConfig(**{f"{kind}_probability": p for kind, p in rates.items()}), 3000)
    flips = np.asarray([drawn.flips for drawn in found])
    happened = {
        "zoom": np.asarray([drawn.zoom is not None for drawn in found]),
        "noise": np.asarray([drawn.noise_sigma is not None for drawn in found]),
        "blur": np.asarray([drawn.blur_sigma is not None for drawn in found]),
        "brightness": np.asarray([drawn.brightness is not None for drawn in found]),
        **{f"flip {axis}": flips[:, axis] for axis in range(3)},
    }
    for name, each in happened.items():
        rate = rates[name.split()[0]]
        assert abs(each.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / len(found)), name
    # One does not come with another.
    together = np.corrcoef(np.stack(list(happened.values()))) - np.eye(len(happened))
    assert abs(together).max() < 5 / np.sqrt(len(found))


@given(
    crop=st.tuples(*[st.integers(8, 512)] * 3),
    bounds=st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)).map(sorted).map(tuple),
    seed=st.integers(0, 2**63 - 1),
)
def test_positions_are_exact_in_float32(
    crop: tuple[int, int, int], bounds: tuple[float, float], seed: int
) -> None:
    zoom = draw(config(1, zoom_range=bounds), crop, generator(seed, 1, "case", PARAMETERS)).zoom
    assert zoom is not None
    for start, side, scale in zip(zoom.start, crop, zoom.scales, strict=True):
        step = np.float32(scale)
        assert 0 <= start <= start + side * scale <= side
        exact = start + (np.arange(side) + 0.5) * scale
        once = np.float32(start) + (np.arange(side, dtype=np.float32) + np.float32(0.5)) * step
        summed = np.cumsum([np.float32(start) + step / 2, *[step] * (side - 1)], dtype=np.float32)
        assert (once == exact).all()
        assert (summed == exact).all()


def test_a_draw_depends_on_seed_epoch_and_case_and_on_nothing_else() -> None:
    keys = [(seed, epoch, case) for seed in (0, 1) for epoch in (1, 2) for case in ("a", "b")]
    first = {draw(config(1), CROP, generator(*key, PARAMETERS)) for key in keys}
    again = {draw(config(1), CROP, generator(*key, PARAMETERS)) for key in reversed(keys)}
    assert len(first) == len(keys)
    assert again == first


@pytest.mark.parametrize("kind", KINDS)
def test_switching_one_off_leaves_the_others_as_they_were(kind: str) -> None:
    before = draws(config(1), 50)
    after = draws(config(1, **{f"{kind}_probability": 0.0}), 50)
    name = {"flip": "flips", "noise": "noise_sigma", "blur": "blur_sigma"}.get(kind, kind)
    for old, new in zip(before, after, strict=True):
        different = {key for key in vars(old) if getattr(old, key) != getattr(new, key)}
        assert different == {name}


def test_noise_is_standard_normal_and_its_own() -> None:
    shape = (2, 40, 30, 20)
    field = noise_field(shape, generator(0, 1, "a", NOISE))
    assert field.dtype == np.float16
    assert field.shape == shape
    values = np.sort(field.ravel().astype(float))
    assert abs(values.mean()) < 5 / np.sqrt(values.size)
    assert abs(values.var() - 1) < 5 * np.sqrt(2 / values.size)
    assert abs((np.abs(values) < 1).mean() - 0.6827) < 0.02
    assert (field == noise_field(shape, generator(0, 1, "a", NOISE))).all()
    for key in ((1, 1, "a"), (0, 2, "a"), (0, 1, "b")):
        other = noise_field(shape, generator(*key, NOISE)).astype(float)
        assert abs(np.corrcoef(other.ravel(), field.ravel().astype(float))[0, 1]) < 0.03


def test_what_workers_run_needs_neither_torch_nor_dali() -> None:
    heavy = "{'torch', 'nvidia', 'scipy.ndimage'}"
    code = f"import sys, train.data.source; print({heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
