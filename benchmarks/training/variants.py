"""Ways of taking the same training step, one change each."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from benchmarks.training.suite import Bench
from benchmarks.training.trial import Trial
from train.config import OptimizerConfig
from train.data.feed import Batch
from train.precision import DTYPES
from train.trainer import Session

MakeOptimizer = Callable[[Iterable[torch.nn.Parameter], OptimizerConfig], torch.optim.Optimizer]

BASE = ("precision=fp16", "channels_last=true", "compile=false")
"""What every variant differs from: the presets' own settings."""


@dataclass(frozen=True)
class Variant:
    """A change of the base.

    Attributes:
        name: of the row.
        changes: what it is a change of; of each of these a combination has one at most.
        overrides: of the configuration.
        optimizer: makes another; None leaves the session's own.
        graphs: whether forward and backward pass are captured as CUDA graphs.
        needs_gpu: whether it is nothing on a CPU.
        same: whether it trains as the base does but for rounding in half precision.
    """

    name: str
    changes: str
    overrides: tuple[str, ...] = ()
    optimizer: MakeOptimizer | None = None
    graphs: bool = False
    needs_gpu: bool = False
    same: bool = True

    @property
    def compiles(self) -> bool:
        """Whether it takes as long as compiling does."""
        return "compile=true" in self.overrides

    def joined(self, other: "Variant") -> "Variant":
        """Both changes."""
        return Variant(
            f"{self.name} + {other.name}",
            "several",
            self.overrides + other.overrides,
            self.optimizer or other.optimizer,
            self.graphs or other.graphs,
            self.needs_gpu or other.needs_gpu,
        )

    @contextmanager
    def begun(
        self, bench: Bench, preset: str, sizes: tuple[str, ...], batch: Batch
    ) -> Iterator[Trial]:
        """A session that is trained this way, not warmed up.

        Args:
            bench: where.
            preset: the network.
            sizes: overrides that make it small.
            batch: on the device.
        """
        count = f"batch_size={len(batch.case_ids)}"
        with bench.begun(preset, *BASE, *sizes, *self.overrides, count) as session:
            if self.optimizer is not None:
                parameters, config = session.model.parameters(), session.config.optimizer
                session.optimizer = self.optimizer(parameters, config)
            if self.graphs:
                capture(session, batch)
            try:
                yield Trial(session, batch, captured=self.graphs)
            finally:
                if self.compiles:  # torch keeps the code, and only so much of one network's
                    torch.compiler.reset()


def capture(session: Session, batch: Batch) -> None:
    """Make the session's forward and backward pass two CUDA graphs, for batches of this shape.

    Loss and optimiser stay outside: a step decides on the CPU whether its gradients are finite.
    """
    precision = session.compute.precision
    image = batch.image.to(
        dtype=DTYPES[precision], memory_format=session.config.memory_format, copy=True
    )
    with torch.autocast(
        "cuda",
        dtype=torch.bfloat16 if precision == "bf16" else torch.float16,
        enabled=precision in {"fp16", "bf16"},
        cache_enabled=False,  # a graph must not hold casts of weights from before it
    ):
        torch.cuda.make_graphed_callables(session.model.train(), (image,))  # in place


def _made(kind: Callable[..., torch.optim.Optimizer], **how: bool) -> MakeOptimizer:
    def make(
        parameters: Iterable[torch.nn.Parameter], config: OptimizerConfig
    ) -> torch.optim.Optimizer:
        return kind(
            parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, **how
        )

    return make


_nadam = partial(_made, torch.optim.NAdam)
_adamw = _made(torch.optim.AdamW, fused=True)


VARIANTS = (
    Variant("channels first", "layout", ("channels_last=false",)),
    Variant("CUDA graphs", "calls", graphs=True, needs_gpu=True),
    Variant("bf16", "precision", ("precision=bf16",)),
    Variant(
        "NAdam capturable",
        "optimiser",
        optimizer=_nadam(capturable=True),
        needs_gpu=True,
    ),
    Variant("tf32", "precision", ("precision=tf32",), same=False),
    Variant(
        "AdamW fused, another optimiser",
        "optimiser",
        optimizer=_adamw,
        same=False,
    ),
    Variant("NAdam tensor by tensor", "optimiser", optimizer=_nadam(foreach=False)),
    Variant("fp32", "precision", ("precision=fp32",), same=False),
)
"""In the order of what they may gain; torch takes NAdam's foreach by itself on a GPU."""

COMPILE = Variant("compile", "calls", ("compile=true",))


def combination(won: Iterable[tuple[Variant, float]]) -> Variant | None:
    """The best change of each kind together; None if there are not two.

    Args:
        won: variants that may be combined, with their ratios to the base.
    """
    best: dict[str, Variant] = {}
    for variant, _ in sorted(won, key=lambda pair: pair[1]):
        best[variant.changes] = variant
    if len(best) < 2:
        return None
    joined, *others = best.values()
    for other in others:
        joined = joined.joined(other)
    return replace(joined, name=f"together: {joined.name}")
