"""Predictions for images in memory, normalised as files are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from torch import Tensor

from common.case import prepare_loaded
from common.errors import ConfigError, Finding
from common.geometry import Vector
from common.record import CaseRecord
from common.validate import check_arrays
from train.ensemble import Predictor
from train.postprocess import file_logits


@dataclass(frozen=True)
class ArrayPrediction:
    """What is predicted for an array, in its own grid when it is asked for."""

    predictor: Predictor
    logits: Tensor
    """(regions, *box)."""
    record: CaseRecord
    """Leads back to the array's grid."""
    warnings: tuple[Finding, ...]
    """What is unusual about the images; their file is the modality."""

    @property
    def labels(self) -> NDArray[np.uint8]:
        """(D, H, W) canonical labels, post-processed."""
        return self.predictor.labels(self.logits, self.record).file

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(regions, D, H, W), 2e-9 outside the box around the brain."""
        return np.stack([expit(file_logits(each, self.record)) for each in self.logits])


def predict_array(
    predictor: Predictor, image: ArrayLike, spacing_mm: float | Sequence[float]
) -> ArrayPrediction:
    """Predict raw intensities (modalities, D, H, W), in the order of `predictor.needed`.

    The axes are those of LPS, as SimpleITK gives them for an image in LPS: D runs from the feet to
    the head, H from the face to the back, W from the right to the left.

    Raises:
        ConfigError: shape, type or spacing are not those of such images.
        InputError: an image cannot be used.
        InferenceError: the network gives NaN or infinity.
    """
    voxels, spacing = _checked(predictor, np.asarray(image), spacing_mm)
    manifest = predictor.manifest.with_modalities(predictor.needed)
    loaded = check_arrays(dict(zip(predictor.needed, voxels, strict=True)), spacing, manifest)
    case = prepare_loaded("array", loaded, manifest)
    logits = predictor.logits(case.image, predictor.needed)
    return ArrayPrediction(predictor, logits, case.record, loaded.warnings)


def _checked(
    predictor: Predictor, image: NDArray[np.generic], spacing_mm: float | Sequence[float]
) -> tuple[NDArray[np.generic], Vector]:
    names = predictor.needed
    if image.ndim != 4 or len(image) != len(names) or image.dtype.kind not in "iuf":
        raise ConfigError(
            f"image: found {image.dtype} {image.shape}; expected numbers of shape "
            f"({len(names)}, D, H, W): {', '.join(names)}"
        )
    lengths = np.asarray(spacing_mm, np.float64).ravel()
    if lengths.size not in {1, 3} or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ConfigError(f"spacing_mm: found {spacing_mm}; expected one length, or (z, y, x)")
    z, y, x = map(float, np.broadcast_to(lengths, 3))
    return image, (z, y, x)
