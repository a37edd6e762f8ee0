"""A run and its folder: begin, resume, train, stop."""

import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from common import __version__, hints
from common.console import err
from common.errors import ConfigError, RunError
from common.interrupts import stop_requests
from common.outputs import check_output
from common.splits import SplitAssignment, require, resolve
from common.store import Store
from common.store.paths import resolved
from common.store.reader import Contents
from common.task import Task
from train import trainer
from train.checkpoint import Which, checkpoint_path
from train.config import TrainConfig, load_config
from train.data.cache import free_memory
from train.data.feed import StallDetector
from train.data.loader import check_cache, open_feed
from train.initial import Start, seen_before, start_from
from train.monitor import Monitor
from train.networks import parameter_count
from train.precision import Compute, avoid_cpu_bf16_bug, choose_compute, configure_backends
from train.run_folder import (
    CONFIG,
    InitRecord,
    RunFile,
    SessionRecord,
    check_run,
    explained,
    read_config,
    read_manifest,
    read_run_file,
    remove_unfinished,
    write_config,
    write_manifest,
    write_run_file,
)
from train.session import Session, new_session, restore, save

CHANGEABLE = frozenset(
    {
        "epochs",
        "patience",
        "max_hours",
        "stuck_minutes",
        "validate_every",
        "loader",
        "workers",
        "cache",
        "compile",
        "device",
        "checkpoint_minutes",
        "max_bad_steps",
        "inference",
    }
)
"""What may change when a run is resumed: no step depends on it, except by rounding."""


def changeable(config: TrainConfig) -> frozenset[str]:
    """`CHANGEABLE` without `epochs` where the learning rate falls to 0 at their end."""
    return CHANGEABLE - {"epochs"} if config.schedule.needs_end else CHANGEABLE


LATER: tuple[Which, ...] = ("best", "previous")
"""Checkpoints that only a run has that was trained."""
BYTES = 4
"""Of a number in float32."""

PACKAGES = ("numpy", "nvidia-dali-cuda120", "safetensors", "zarr", "zarrs")


def fresh(
    preset: str,
    overrides: Sequence[str],
    store: Store,
    run_dir: Path,
    contents: Contents | None = None,
) -> Session:
    """The session of a new run; nothing is written. The store's contents are read if not given.

    Raises:
        ConfigError: the configuration is not valid or does not fit the store.
    """
    config = load_config(preset, overrides)
    config = config.model_copy(update={"modalities": config.modalities_of(store.task)})
    config.inference.postprocess.check_regions(store.task)
    contents = contents or store.contents()
    splits = assign_cases(config, contents)
    _check_store(config, store)
    session = _session(run_dir, config, store, splits)
    if config.init:
        session.start = start_from(config.init, session.model, config, store.task)
        session.begin_average()
        seen = seen_before(config.init, contents, splits.cases)
        session.splits = replace(splits, messages=(*splits.messages, *seen))
    return session


def begin(preset: str, overrides: Sequence[str], store: Store, run_dir: Path) -> Session:
    """The session of a new run, and its folder with all that is needed to repeat the run.

    Raises:
        ConfigError: the configuration is not valid or does not fit the store.
        RunError: the folder holds a run, or cannot be written.
    """
    _check_new_run(run_dir)
    contents = store.contents()
    session = fresh(preset, overrides, store, run_dir, contents)
    with explained(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        remove_unfinished(run_dir)
        write_manifest(run_dir, store.manifest)
        _write_run_file(session, preset, contents.fingerprint, _init(session.start), [])
        save(session)
        write_config(run_dir, session.config)
    return session


def reopen(preset: str | None, overrides: Sequence[str], store: Store, run_dir: Path) -> Session:
    """The session of a run at its last checkpoint; `overrides` change what `changeable` names.

    The preset is the run's own or None, the store is the run's, wherever it is now.

    Raises:
        ConfigError: a change would change the numbers of the remaining steps.
        RunError: there is no run, or the store has changed.
        CheckpointError: the checkpoint is damaged.
    """
    if not (run_dir / CONFIG).exists():
        resume = hints.option("--resume")
        raise RunError(
            f"{run_dir}: no run to resume, {CONFIG} is missing; leave {resume} out to begin one"
        )
    check_run(run_dir)
    read_manifest(run_dir)  # whoever predicts with the run later needs it whole
    run = read_run_file(run_dir)
    if preset not in {None, run.preset}:
        raise ConfigError(f"{run_dir} began with preset {run.preset}, not {preset}: name that one")
    if run.store_fingerprint != store.contents().fingerprint:
        raise RunError(
            f"{run_dir} was trained on {run.store}; {store.path} now holds other cases or "
            f"parameters: begin a new run with another {_other_folder()}"
        )
    config = _changed(read_config(run_dir), run_dir, overrides)
    session = _session(run_dir, config, store, SplitAssignment(run.cases))
    restore(session)
    before = run.sessions[-1].compute
    if session.compute.describe() != before:
        note = f"this run was on {before} before, so its numbers are not those of one device"
        session.compute = replace(session.compute, note=note)
    with explained(run_dir):
        remove_unfinished(run_dir)
        write_config(run_dir, config)
        _write_run_file(session, run.preset, run.store_fingerprint, run.init, run.sessions)
    trainer.write_metrics(session)
    return session


def execute(session: Session) -> trainer.End:
    """Train until the run ends or is interrupted, and say which.

    Raises:
        FMNetError: as `train.trainer.train`, or the loader cannot start.
    """
    config, samples = session.config, session.epoch_stream().samples
    if session.at.samples == samples:  # it was interrupted during validation
        with Monitor(session, samples) as monitor:
            trainer.end_epoch(session, monitor)
    if end := trainer.ended(session):
        return end
    with (
        _stop_requests() as stopping,
        open_feed(
            config.loader, session.stream(), session.compute.device, config.workers, config.cache
        ) as feed,
        StallDetector(feed, 60 * config.stuck_minutes, session.run_dir) as batches,
        Monitor(session, samples) as monitor,
    ):
        return trainer.train(session, batches, monitor, stopping)


def assign_cases(config: TrainConfig, contents: Contents) -> SplitAssignment:
    """A store's cases for training, validation and test.

    Raises:
        ConfigError: a split that is needed is empty, or an image is in two splits.
    """
    rule, absent = config.splits_of(contents.manifest), contents.absent
    try:
        found = resolve(rule, contents.patients)
        for name in ("train", "val"):
            require(name, found.cases, contents.patients)
    except ConfigError as error:
        if not absent:
            raise
        raise ConfigError(
            f"{contents.path}: {len(absent)} of {len(contents.expected)} expected case(s) are not "
            f"stored: preprocess again first. As it is, {error}"
        ) from error
    if leaks := contents.leaks(found.cases):
        raise ConfigError(f"{contents.path}: " + "\n".join(leaks))
    messages = [*found.messages, *filter(None, [contents.absence])]
    if left_out := sorted(set(contents.patients).difference(*found.cases.values())):
        messages.append(f"{len(left_out)} labelled case(s) in no split, such as {left_out[0]}")
    return SplitAssignment(found.cases, tuple(messages))


def _session(run_dir: Path, config: TrainConfig, store: Store, splits: SplitAssignment) -> Session:
    compute = choose_compute(config.device, config.precision)
    _check_size(config, store.task, compute)
    if config.model.dims == 3:
        compute = avoid_cpu_bf16_bug(compute, store.crop[0] // config.model.stride)
    configure_backends(compute, deterministic=config.deterministic)
    session = new_session(run_dir, config, compute, store, splits)
    if (warmup := config.schedule.warmup_steps) >= session.steps:
        raise ConfigError(
            f"schedule.warmup_steps: {warmup}, but the run has {session.steps} step(s) in all, so "
            f"the learning rate would never reach optimizer.lr; write less than {session.steps}"
        )
    check_cache(config.loader, session.epoch_stream(), config.cache)
    return session


def _check_size(config: TrainConfig, task: Task, compute: Compute) -> None:
    """Check that the network alone fits into memory, before any is taken."""
    count = parameter_count(config.blueprint(task).parameters())
    numbers = 2 + config.optimizer.moments + (config.ema is not None)  # value, gradient, …
    needed, device = count * numbers * BYTES, compute.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    if needed > free:
        raise ConfigError(
            f"model: a network of {count / 1e6:,.0f} M parameters takes {needed / 1e9:,.1f} GB "
            f"or more in training, and {free / 1e9:,.1f} GB are free: take fewer or smaller "
            "model.widths"
        )


def _check_store(config: TrainConfig, store: Store) -> None:
    """Check that the store's crops fit the network."""
    stride = config.model.stride
    sides = store.crop[-config.model.dims :]
    if any(side % stride or side < 2 * stride for side in sides):
        raise ConfigError(
            f"{store.path} has crops of {store.crop}; the network needs a multiple of {stride}, at "
            f"least {2 * stride}, along each axis: take fewer model.widths, or preprocess with "
            "another crop"
        )


def _check_new_run(run_dir: Path) -> None:
    if (run_dir / CONFIG).exists():
        raise RunError(
            f"{run_dir} holds a run: resume it with {hints.option('--resume')}, or name another "
            f"folder with {_other_folder()}"
        )
    if any(checkpoint_path(run_dir, which).exists() for which in LATER):
        raise RunError(
            f"{run_dir} holds a run whose {CONFIG} is missing: restore that from a copy, or name "
            f"another folder with {_other_folder()}"
        )
    check_output(run_dir, "folder")


def _other_folder() -> str:
    return hints.option("--out", "…", variable="RUN")


def _changed(config: TrainConfig, run_dir: Path, overrides: Sequence[str]) -> TrainConfig:
    """The run's configuration with overrides that change no number of the steps to come."""
    changed, free = read_config(run_dir, overrides), changeable(config)
    fixed = [
        name
        for name in TrainConfig.model_fields
        if name not in free and getattr(changed, name) != getattr(config, name)
    ]
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)}: cannot change when {run_dir} is resumed, because its numbers "
            f"depend on it; only {', '.join(sorted(free))} can. Begin a new run with another "
            f"{_other_folder()}"
        )
    return changed


def _write_run_file(
    session: Session,
    preset: str,
    fingerprint: str,
    init: InitRecord | None,
    before: list[SessionRecord],
) -> None:
    config, store = session.config, session.store
    now = SessionRecord(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(sys.argv),
        epoch=session.at.epoch,
        compute=session.compute.describe(),
        loader=config.loader,
        workers=config.workers,
        cache=config.cache,
        versions=versions(),
    )
    run = RunFile(
        preset=preset,
        seed=config.seed,
        init=init,
        store=resolved(store.path),
        store_fingerprint=fingerprint,
        cases=session.splits.cases,
        sessions=[*before, now],
    )
    write_run_file(session.run_dir, run)


def _init(start: Start | None) -> InitRecord | None:
    if start is None:
        return None
    return InitRecord(source=start.source, sha256=start.sha256, lines=[*start.lines])


def versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers depend on."""
    found = {"fm-net": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # the torch loader runs without DALI
            found[package] = "not installed"
    found["torch"] = str(torch.__version__)  # with what it was built for
    return found


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """The first request asks for a stop after the current step; a second one stops at once."""
    asked = False

    def note(requests: int) -> None:
        nonlocal asked
        if requests > 1:
            raise KeyboardInterrupt
        asked = True
        err.print("stopping after this step; the run can be resumed …")

    with stop_requests(note):
        yield lambda: asked
