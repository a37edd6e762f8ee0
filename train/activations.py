"""How large a network's activations grow in training: float16 ends at 65,504."""

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

FP16_LIMIT = 65504.0
"""The largest number in float16."""
NEAR = FP16_LIMIT / 2
"""From here on a run in fp16 says what to do."""

LAYERS = (_ConvNd, nn.Linear)
"""What autocast computes in half precision, and so what overflows first."""


class LargestActivation:
    """The largest absolute output of a network's convolutions and linear layers in training mode.

    It is kept on the device, where nothing waits for it.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.value = torch.zeros((), device=device)
        """NaN or infinity once an output was."""
        for layer in model.modules():
            if isinstance(layer, LAYERS):
                layer.register_forward_hook(self._see)

    def reset(self) -> None:
        """Begin anew, in place: a compiled network has this tensor in its graph."""
        self.value.zero_()

    @torch.no_grad()
    def _see(self, layer: nn.Module, _inputs: object, output: Tensor) -> None:
        if layer.training:
            # Two reductions need no memory; the magnitudes of all would.
            largest = torch.maximum(output.amax(), -output.amin()).float()
            self.value.copy_(torch.maximum(self.value, largest))
