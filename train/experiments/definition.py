"""An experiment as a file: variants, what is claimed of them, and what the paper says."""

from functools import cache
from importlib import resources
from typing import Literal, Self

from pydantic import Field, model_validator

from common.errors import ConfigError
from common.settings import Settings, did_you_mean, parse, read_yaml
from train.config import DEFAULT_PRESET

Scale = Literal["smoke", "small", "full"]
SCALES: tuple[Scale, ...] = ("smoke", "small", "full")

Quantity = Literal["dice", "loss", "curve", "rate"]
"""What a claim is about; `train.experiments.outcome` computes each."""

SHARED = "scales"
"""The file that holds what all experiments of a scale share."""


class Changes(Settings):
    """Settings as those of `--set`: of every scale, then of each one."""

    settings: tuple[str, ...] = ()
    """At every scale."""
    smoke: tuple[str, ...] = ()
    """At scale smoke alone."""
    small: tuple[str, ...] = ()
    """At scale small alone."""
    full: tuple[str, ...] = ()
    """At scale full alone."""

    def at(self, scale: Scale) -> tuple[str, ...]:
        """The settings of one scale."""
        return (*self.settings, *getattr(self, scale))


class Variant(Changes):
    """One network, or one way to train it."""

    preset: str = DEFAULT_PRESET
    """Name of a preset."""
    paper: str = ""
    """The paper's figure for it; empty where it gives none."""


class Claim(Settings):
    """That one variant is better than another."""

    better: str
    """The variant that is better."""
    than: str
    """The variant that is worse."""
    by: Quantity = "dice"
    """dice or loss of scored cases; curve: validation loss mean over epochs; rate: volumes/s."""
    region: str | None = None
    """The region of `dice`; null is the mean over all."""
    by_paper: bool = True
    """Whether the paper says so; else it is measured, and no part of the trend."""


class InPaper(Settings):
    """What the paper says of an experiment."""

    source: str
    """Where in the paper."""
    finding: str
    """Its result in words."""
    conditions: str
    """Under which it had it."""
    differs: str
    """What is other here, at every scale."""


class Experiment(Changes):
    """What is trained, and what the paper found."""

    title: str
    """What is compared."""
    paper: InPaper | None = None
    """Null where the paper made no such comparison."""
    figure: Literal["curves", "bars", "rates"]
    """curves: validation loss by epoch. bars: Dice. rates: volumes per second."""
    variants: dict[str, Variant] = Field(min_length=1)
    """By name, in the order of the table."""
    claims: tuple[Claim, ...] = ()
    """Those that are the paper's are its trend, which holds where all of them hold."""
    baselines: tuple[str, ...] = ()
    """Variants whose speed the others' is given relative to."""
    draws_run: bool = False
    """Whether the figures of a run are drawn too: a case, curves, network, samples, supervision."""
    scored: bool = True
    """Whether the variants are scored on whole volumes, or only their speed counts."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.paper is None and any(claim.by_paper for claim in self.claims):
            raise ValueError("claims: a claim by_paper, but paper is missing")
        claimed = [name for claim in self.claims for name in (claim.better, claim.than)]
        for name in (*claimed, *self.baselines):
            if name not in self.variants:
                raise ValueError(f"{name} is no variant")
        return self

    def check_variants(self, names: tuple[str, ...]) -> None:
        """Check that all of these are variants.

        Raises:
            ConfigError: one is not.
        """
        for name in names:
            if name not in self.variants:
                known = tuple(self.variants)
                raise ConfigError(
                    f"{name}: no such variant; there are {', '.join(known)}"
                    f"{did_you_mean(name, known)}"
                )


class ScaleConfig(Settings):
    """What all experiments of a scale share."""

    seeds: int = Field(ge=1)
    """Runs of each variant that differ by their seed alone."""
    checkpoint: Literal["best", "last"]
    """The weights that are scored; the last where cases are scored by folds."""
    settings: tuple[str, ...] = ()
    """Of every run, below the experiment's own."""
    family: tuple[str, ...] = ()
    """The same of networks of FM-Net's family alone."""


class Scales(Settings):
    """Every scale's values."""

    smoke: ScaleConfig
    """Whether the command works, on tiny networks: nothing is learnt."""
    small: ScaleConfig
    """Small networks for a CPU, on a grid of 2 mm."""
    full: ScaleConfig
    """The paper's own networks, for a GPU."""


def experiment_names() -> list[str]:
    """The experiments that ship with the project."""
    files = (file.name for file in resources.files(__package__).iterdir())
    names = (name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))
    return sorted(name for name in names if name != SHARED)


def load_experiment(name: str) -> Experiment:
    """One of them.

    Raises:
        ConfigError: there is none of this name.
    """
    known = experiment_names()
    if name not in known:
        raise ConfigError(
            f"{name}: no such experiment; there are {', '.join(known)}{did_you_mean(name, known)}"
        )
    return parse(Experiment, _values(name), f"experiment {name}")


@cache
def scale_config(scale: Scale) -> ScaleConfig:
    """What the experiments of a scale share."""
    found: ScaleConfig = getattr(parse(Scales, _values(SHARED), SHARED), scale)
    return found


def _values(name: str) -> dict[str, object]:
    text = (resources.files(__package__) / f"{name}.yaml").read_text("utf-8")
    return read_yaml(text, f"{name}.yaml")
