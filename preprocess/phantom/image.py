"""One phantom: a random head as four MR images and a label."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from common.task import MODALITIES
from preprocess.phantom import anatomy as phantom_anatomy
from preprocess.phantom import lesions as phantom_lesions
from preprocess.phantom.fields import Field, Grid, smooth_noise

TUMOUR_FREE = 3
"""Index of the case without a tumour: fixed, so that a larger cohort begins with a smaller one."""

SIGNAL: dict[str, tuple[float, float, float, float]] = {
    # FLAIR, T1, T1CE, T2; white matter is 1 on T1
    "white": (0.77, 1.00, 1.00, 0.75),
    "grey": (1.00, 0.77, 0.79, 1.05),
    "deep": (0.92, 0.86, 0.87, 0.88),
    "pallidum": (0.80, 0.94, 0.95, 0.66),
    "csf": (0.28, 0.36, 0.36, 2.60),
    "hyperintensity": (1.50, 0.95, 0.95, 1.00),
    "vessel": (0.45, 0.60, 1.90, 0.55),
    "choroid": (0.85, 0.65, 1.60, 1.60),
    "oedema": (1.50, 0.70, 0.70, 1.75),
    "enhancing": (1.20, 0.74, 1.75, 1.55),
    "necrosis": (0.95, 0.52, 0.56, 2.10),
}

SCALE = {"flair": (250, 900), "t1": (250, 1100), "t1ce": (300, 1600), "t2": (200, 900)}
"""Scanner units of a signal of 1, drawn for each case and modality."""


@dataclass(frozen=True)
class Phantom:
    """One case: `image` (4, D, H, W), background 0; `label` (D, H, W), see `lesions.Lesions`."""

    image: NDArray[np.int16]
    label: NDArray[np.uint8]


def synthesise(
    seed: int, index: int, size: tuple[int, int, int], *, cavity: bool = False
) -> Phantom:
    """Case `index` of the cohort of `seed`: a function of its arguments alone.

    Anatomy, tumour, other lesions and acquisition have a random generator each, and lengths are
    in template millimetres: another size shows the same head with the same tumour. With a
    `cavity`, a part of the tumour's core is one.
    """
    streams = np.random.SeedSequence([seed, index]).spawn(4)
    for_head, for_tumour, for_lesions, for_image = map(np.random.default_rng, streams)
    grid = Grid.of(size)
    outer = phantom_anatomy.warped(for_head, grid)
    if index == TUMOUR_FREE:
        anatomy = phantom_anatomy.build(for_head, grid, outer, outer)
        tumour = phantom_lesions.Lesions([], np.zeros(grid.shape, np.uint8))
        voxels = for_tumour.uniform(0.02, 0.06) * np.count_nonzero(anatomy.mask)
    else:
        glioma = phantom_lesions.draw_glioma(for_tumour)
        inner = phantom_lesions.pushed_aside(outer, glioma, for_tumour.uniform(0.15, 0.4))
        anatomy = phantom_anatomy.build(for_head, grid, outer, inner)
        tumour = phantom_lesions.grow(for_tumour, grid, outer, anatomy, glioma, cavity=cavity)
        voxels = for_lesions.uniform(0.5, 1.1) * np.count_nonzero(tumour.label)
    layers = [
        *anatomy.layers,
        (
            "hyperintensity",
            phantom_lesions.hyperintensities(for_lesions, grid, anatomy, tumour.label > 0, voxels),
        ),
        ("choroid", phantom_lesions.choroid_plexus(for_lesions, grid, anatomy)),
        ("vessel", phantom_lesions.vessels(for_lesions, grid, anatomy)),
        *tumour.layers,
    ]
    image = np.zeros((len(MODALITIES), *size), np.int16)
    label = np.zeros(size, np.uint8)
    image[:, *grid.box] = _acquire(for_image, grid, layers, anatomy.mask, tumour.label > 0)
    label[grid.box] = tumour.label
    return Phantom(image, label)


def _acquire(
    rng: np.random.Generator,
    grid: Grid,
    layers: list[tuple[str, Field]],
    mask: NDArray[np.bool_],
    tumour: NDArray[np.bool_],
) -> NDArray[np.int16]:
    """Images (4, d, h, w) of the layers: contrast, texture, blur, bias field, noise, scale."""
    signal = _signals(rng)
    texture = np.where(tumour, np.float32(0.1), np.float32(0.035))
    image = np.zeros((len(MODALITIES), *grid.shape), np.int16)
    for channel, modality in enumerate(MODALITIES):
        picture = np.zeros(grid.shape, np.float32)
        for tissue, cover in layers:
            picture += cover * (np.float32(signal[tissue][channel]) - picture)
        picture *= 1 + texture * smooth_noise(rng, grid, 8.0)
        picture = ndimage.gaussian_filter(picture, rng.uniform(0.4, 0.6))
        picture *= np.exp(np.float32(rng.uniform(0.06, 0.14)) * smooth_noise(rng, grid, 70.0))
        noise = rng.standard_normal(grid.shape, np.float32)
        picture += np.float32(rng.uniform(0.02, 0.045)) * noise
        units = rng.uniform(*SCALE[modality])
        image[channel] = np.where(mask, np.clip(np.rint(picture * units), 1, 32767), 0)
    return image


def _signals(rng: np.random.Generator) -> dict[str, tuple[float, ...]]:
    """The tissues' signals in one case; a tumour's FLAIR signal varies most, as in patients."""
    signal = {
        tissue: tuple(value * rng.uniform(0.96, 1.04) for value in values)
        for tissue, values in SIGNAL.items()
    }
    for tissue, spread in (("oedema", 0.12), ("enhancing", 0.2), ("necrosis", 0.4)):
        flair, *others = signal[tissue]
        signal[tissue] = (flair * rng.uniform(1 - spread, 1 + spread), *others)
    flair, *others = signal["hyperintensity"]
    signal["hyperintensity"] = (signal["oedema"][0] * rng.uniform(0.95, 1.1), *others)
    return signal
