"""Whether labels look like the tissues that they name.

In 45 real cases of glioma oedema has the largest share of the tumour's surface in each (median
0.87; enhancing tumour 0.08, core 0.02), and enhancing tumour gains most from T1 to T1CE.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.task import ENHANCING, Task, in_words
from common.volume import Box, extract

Array = NDArray[np.generic]

OEDEMA, CORE = ("ed", "snfh"), ("ncr", "netc")

LEAST_VOXELS = 100
"""Labels with fewer voxels are not judged."""
LARGER = 2.0
"""The core's surface over oedema's that is a contradiction; at most 0.04 in eleven real cases."""
CLEAR = 1.6
"""Gain over the outermost tissue's, in σ, that makes a value look like enhancing tumour. In eleven
real cases enhancing tumour has 1.9 or more, the core 1.4 or less, fluid such as a cavity's 1.1."""
SAMPLE = 20_000
"""Voxels of an image that its mean and standard deviation are taken from."""
LINES, VOXELS = 30_000, 50_000
"""About so many voxels of a tumour's box are looked at, for faces along an axis and for means."""


class Traits(NamedTuple):
    """What tells tissues apart."""

    voxels: int
    surface: float
    """Share of the tumour's faces towards the background."""
    t1ce: float
    """Mean of the normalised T1CE; NaN without that image."""
    gain: float
    """Mean of T1CE − T1, both normalised; NaN without one of them."""


def measure(
    label: NDArray[np.uint8], values: Iterable[int], box: Box, images: Mapping[str, Array]
) -> dict[int, Traits]:
    """Traits of some values of a label (*box.shape), from samples of the whole images.

    Values with fewer than `LEAST_VOXELS` voxels are left out.
    """
    counts = {value: int(np.count_nonzero(label == value)) for value in sorted(values)}
    faces = _faces(label)
    total = max(1, int(faces.sum()))
    t1ce, t1 = _means(label, box, [images.get(name) for name in ("t1ce", "t1")])
    surface, gain = faces / total, t1ce - t1
    return {
        v: Traits(count, float(surface[v]), float(t1ce[v]), float(gain[v]))
        for v, count in counts.items()
        if count >= LEAST_VOXELS
    }


def _step(size: int, wanted: int, axes: int) -> int:
    """Every which voxel along some axes leaves about as many as are wanted."""
    return max(1, round(math.pow(size / wanted, 1 / axes)))


def _faces(label: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Faces of each value towards 0, on a sample of the lines along each axis."""
    counts, padded = np.zeros(256, np.intp), np.pad(label, 1)
    step = _step(label.size, LINES, 2)
    for axis in range(3):
        lines = np.moveaxis(padded, axis, 0)[:, ::step, ::step]
        before, after = lines[:-1], lines[1:]
        counts += np.bincount((before | after)[(before == 0) != (after == 0)], minlength=256)
    return counts


def _means(
    label: NDArray[np.uint8], box: Box, images: Sequence[Array | None]
) -> list[NDArray[np.float64]]:
    """Mean of each image (D, H, W), normalised, in every value, on a sample; NaN where unknown."""
    step = _step(label.size, VOXELS, 3)
    values = label[::step, ::step, ::step].ravel()
    counts = np.bincount(values, minlength=256).astype(np.float64)
    counts[counts == 0] = np.nan
    means = []
    for image in images:
        if image is None:
            means.append(np.full(256, np.nan))
            continue
        mean, std = _brain(image)
        voxels = extract(image, box)[::step, ::step, ::step].ravel().astype(np.float64)
        sums = np.bincount(values, weights=voxels, minlength=256)
        means.append((sums / counts - mean) / std)
    return means


def _brain(image: Array) -> tuple[float, float]:
    """Mean and standard deviation of what is not 0, on a sample of rows; NaN if it is nothing."""
    step = _step(image.size, SAMPLE, 2)
    rows = image[::step, ::step]
    brain = rows[rows != 0].astype(np.float64)
    if brain.size < 2:
        return np.nan, np.nan
    return float(brain.mean()), float(brain.std()) or np.nan


def oedema_of(task: Task) -> str | None:
    """The label of oedema, if the task has one and enhancing tumour, so that it can be judged."""
    return next((name for name in OEDEMA if name in task.labels and ENHANCING in task.labels), None)


def brightest(traits: Mapping[int, Traits]) -> int | None:
    """The value that gains from T1 to T1CE as enhancing tumour does; None if none does."""
    if not has_gains(traits):
        return None
    outermost = max(traits, key=lambda value: traits[value].surface)
    best = max(traits, key=lambda value: traits[value].gain)
    gains = traits[best].gain > traits[outermost].gain + CLEAR
    return best if gains and traits[best].t1ce > traits[outermost].t1ce else None


def exchanged(traits: Mapping[int, Traits]) -> int | None:
    """The value that would look like enhancing tumour if T1 and T1CE were exchanged, if one does.

    None too where a value looks so as they are.
    """
    if brightest(traits) is not None:
        return None
    return brightest({v: t._replace(t1ce=t.t1ce - t.gain, gain=-t.gain) for v, t in traits.items()})


def has_gains(traits: Mapping[int, Traits]) -> bool:
    """Whether there are two values to compare, and both T1 and T1CE."""
    return len(traits) > 1 and not any(math.isnan(one.gain) for one in traits.values())


def contradictions(
    task: Task, meaning: Mapping[int, str], traits: Mapping[int, Traits]
) -> list[str]:
    """How values that mean these labels contradict anatomy, in words; empty if they do not."""
    oedema = oedema_of(task)
    if oedema is None:
        return []
    of_label = _by_label(meaning, traits)
    if ENHANCING in of_label:
        return _core_outside(task, oedema, of_label) + _not_enhancing(oedema, of_label)
    value = brightest(traits)
    if value is None or value not in meaning:
        return []
    gain, label = traits[value].gain, in_words(meaning[value])
    return [f"{value}, {label}, gains {gain:.1f} σ from T1 to T1CE, as {in_words(ENHANCING)} does"]


def _core_outside(task: Task, oedema: str, of_label: Mapping[str, Traits]) -> list[str]:
    # Paediatric tumours often have little oedema, and a core that reaches their surface.
    core = next((name for name in CORE if name in of_label and "cc" not in task.labels), None)
    if core is None or oedema not in of_label:
        return []
    inner, outer = of_label[core].surface, of_label[oedema].surface
    if inner <= LARGER * outer:
        return []
    found = f"{in_words(core)} has {inner:.0%} of the tumour's surface, {in_words(oedema)}"
    return [f"{found} {outer:.0%}"]


def _not_enhancing(oedema: str, of_label: Mapping[str, Traits]) -> list[str]:
    own, other = of_label[ENHANCING], of_label.get(oedema)
    most = max(of_label, key=lambda name: of_label[name].gain)
    if of_label[most].gain > own.gain:
        found = f"{in_words(ENHANCING)} gains {own.gain:.1f} σ from T1 to T1CE, {in_words(most)}"
        return [f"{found} {of_label[most].gain:.1f} σ"]
    if other and other.t1ce > own.t1ce:
        found = f"{in_words(ENHANCING)} is darker in T1CE ({own.t1ce:.1f} σ) than"
        return [f"{found} {in_words(oedema)} ({other.t1ce:.1f} σ)"]
    return []


def _by_label(meaning: Mapping[int, str], traits: Mapping[int, Traits]) -> dict[str, Traits]:
    """Traits of each label; several values of one are taken together."""
    of_label: dict[str, Traits] = {}
    for value, one in traits.items():
        if (name := meaning.get(value)) is None:
            continue
        other = of_label.get(name, one._replace(voxels=0, surface=0.0))
        voxels = other.voxels + one.voxels
        share = one.voxels / voxels
        of_label[name] = Traits(
            voxels,
            other.surface + one.surface,
            other.t1ce + share * (one.t1ce - other.t1ce),
            other.gain + share * (one.gain - other.gain),
        )
    return of_label


def fitting(
    task: Task, meaning: Mapping[int, str], traits: Mapping[int, Traits]
) -> dict[int, str] | None:
    """The meaning of the values that anatomy suggests; None if no value is enhancing tumour.

    Values that are neither oedema nor enhancing tumour keep their meaning where they can.
    """
    oedema, enhancing = oedema_of(task), brightest(traits)
    if oedema is None or enhancing is None:
        return None
    others = [value for value in traits if value != enhancing]
    outermost = max(others, key=lambda value: traits[value].surface)
    fits = {outermost: oedema, enhancing: ENHANCING}
    kept = {v: meaning[v] for v in others if v in meaning and meaning[v] not in fits.values()}
    fits = kept | fits
    left = [name for name in task.labels if name not in fits.values()]
    fits |= {value: left.pop(0) for value in others if value not in fits and left}
    return dict(sorted(fits.items()))
