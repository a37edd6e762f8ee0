"""Whole volumes by MONAI's sliding window, which is not among what this project needs."""

from importlib import import_module
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.inference import tile_weights
from train.loaded_run import LoadedRun

AXES = (-3, -2, -1)


def monai_logits(trained: LoadedRun, image: NDArray[np.floating]) -> Tensor:
    """As `LoadedRun.logits`, of the same network with as many windows of the same weights.

    Flips are those of the whole volume, as NVIDIA's nnU-Net uses this function. Where an axis has
    more than two windows, MONAI does not spread them evenly.

    Args:
        trained: a network that sees all modalities.
        image: (4, D, H, W).
    """
    sliding_window = import_module("monai.inferers").sliding_window_inference
    config, compute, window = trained.config.inference, trained.compute, trained.manifest.crop
    volume = torch.from_numpy(image).to(compute.device).float()[None]
    weights = tile_weights(window, compute.device)
    counts = range(len(AXES) + 1) if config.flips else (0,)

    def predictor(tiles: Tensor) -> Tensor:
        with compute.autocast():
            (logits,) = trained.model(tiles)
        return torch.as_tensor(logits).float()

    total = torch.zeros((), device=compute.device)
    mirrored = [axes for count in counts for axes in combinations(AXES, count)]
    with torch.inference_mode():
        for axes in mirrored:
            logits = sliding_window(
                volume.flip(axes),
                window,
                config.tiles,
                predictor,
                overlap=config.overlap,
                mode="gaussian",
                roi_weight_map=weights,
            )
            total = total + logits[0].flip(axes)
        return total / len(mirrored)
