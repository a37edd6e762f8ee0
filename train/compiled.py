"""torch.compile for training, in a way that a run outlives where it fails."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Compiled:
    """A network's forward pass, compiled for each shape of its input; plain once that has failed.

    Compiled is the call alone: names of parameters, checkpoints and evaluation are the network's.

    Attributes:
        failed: whether it is plain.
    """

    def __init__(self, model: nn.Module, tell: Callable[[str], None]) -> None:
        """Compile nothing yet.

        Args:
            model: the network, in training mode when it is called.
            tell: told once, why it goes on without.
        """
        self.failed = False
        self._model = model
        self._tell = tell
        self._forward: Callable[[Tensor], tuple[Tensor, ...]] = model
        self._ready = set[torch.Size]()

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs; the first of a shape takes as long as compiling does."""
        if image.shape not in self._ready and not self.failed:
            self._prepare(image)
        return self._forward(image)

    def _prepare(self, image: Tensor) -> None:
        """Try forward and backward, either of which is compiled when it is first needed."""
        try:
            self._forward = torch.compile(self._model, dynamic=False)
            total = torch.stack([output.float().mean() for output in self._forward(image)]).sum()
            torch.autograd.grad(total, tuple(self._model.parameters()))
            self._ready.add(image.shape)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - each compiler behind it fails in its own way
            self._forward, self.failed = self._model, True
            why = " ".join(str(error).split())[:200]
            self._tell(
                f"torch.compile failed, training goes on without it ({type(error).__name__}: {why})"
            )
