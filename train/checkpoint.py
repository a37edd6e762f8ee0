"""Checkpoints: one safetensors file each, with its state as JSON in the file's metadata.

One rename replaces the one file, so weights, optimiser and position are always of the same moment.
The JSON file beside it shows the state to people and is never read. Nothing is pickled, so opening
a checkpoint runs no code.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common import hints
from common.errors import CheckpointError, InputError
from common.files import check_regular, flush, reason_of, replacing, write_json
from train.optimizers import NUMBERS, STATE

Which = Literal["best", "last", "previous"]

FORMAT = 2
METADATA_KEY = "fm_net"
MODEL, AVERAGE, OPTIMIZER, RNG = "model.", "average.", "optimizer.", "rng.cpu"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]  # as `capture` gives them
    state: dict[str, Any]  # anything that JSON can hold

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's, by its own names."""
        return _under(MODEL, self.tensors)

    @property
    def average(self) -> dict[str, Tensor]:
        """Their running mean, by the same names; empty where the run keeps none."""
        return _under(AVERAGE, self.tensors)


def checkpoint_path(run_dir: Path, which: Which) -> Path:
    """The file of a run's best checkpoint, its last, or the one before the last."""
    return run_dir / f"{which}.safetensors"


def save(run_dir: Path, checkpoint: Checkpoint, *, best: bool) -> None:
    """Write the run's last checkpoint, which is also its best if `best`.

    The best is replaced first: after a crash between the two, the run reaches the same best again
    from the last. The checkpoint before the last is kept in case the disk damages a file.

    Raises:
        CheckpointError: it cannot be written; the earlier checkpoints are intact.
    """
    try:
        _save(run_dir, checkpoint, best=best)
    except (OSError, SafetensorError) as error:
        if not run_dir.is_dir():
            raise CheckpointError(
                f"{run_dir}: the run's folder is gone, and no checkpoint can be written to it; "
                "begin a new run"
            ) from error
        size = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
        free = shutil.disk_usage(run_dir).free
        raise CheckpointError(
            f"{run_dir}: a checkpoint of {size / 1e6:.0f} MB cannot be written ({error}), "
            f"{free / 1e6:.0f} MB are free there; make room, or make the folder writable. The "
            "earlier checkpoints are intact"
        ) from error


def _save(run_dir: Path, checkpoint: Checkpoint, *, best: bool) -> None:
    last = checkpoint_path(run_dir, "last")
    with replacing(last, sync=True) as unfinished:
        state = json.dumps(checkpoint.state, allow_nan=False)
        digest = _digest(checkpoint.tensors, state)
        metadata = json.dumps({"format": FORMAT, "digest": digest, "state": state})
        unfinished.touch()
        mode = unfinished.stat().st_mode  # safetensors would let only the owner read
        save_file(checkpoint.tensors, unfinished, {METADATA_KEY: metadata})
        unfinished.chmod(mode)
        flush(unfinished)
        if best:
            _link(unfinished, checkpoint_path(run_dir, "best"))
            write_json(run_dir / "best.json", checkpoint.state)
        if last.exists():
            _link(last, checkpoint_path(run_dir, "previous"))
    write_json(run_dir / "last.json", checkpoint.state)


def load(run_dir: Path, which: Which) -> Checkpoint:
    """Read and verify a run's checkpoint.

    Raises:
        CheckpointError: it is missing or damaged; the message names another one to use.
    """
    try:
        return _read(checkpoint_path(run_dir, which))
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_offer_other(run_dir, which)}") from error


def capture(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, optimiser moments and the CPU's random state, contiguous on the CPU, by name.

    Names are `model.<name>`, `optimizer.<parameter>.<moment>` and `rng.cpu`.
    """
    tensors = _named(MODEL, model)
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{OPTIMIZER}{name}.{key}"] = value
    tensors[RNG] = torch.get_rng_state()
    return _on_cpu(tensors)


def capture_average(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the running mean's network, beside those of `capture`: `average.<name>`."""
    return _on_cpu(_named(AVERAGE, model))


def _named(prefix: str, model: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in weights_of(model).items()}


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def restore(
    tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """The inverse of `capture`, in place.

    Moments take their parameter's device and memory format. Step counts stay on the CPU as torch
    has them; torch's `load_state_dict` would move them, and each step would wait for the device.

    Raises:
        CheckpointError: the weights or moments are those of another network, or are missing.
    """
    load_weights(model, _under(MODEL, tensors))
    try:
        for name, parameter in model.named_parameters():
            saved = _under(f"{OPTIMIZER}{name}.", tensors)
            optimizer.state[parameter] = _moments(saved, parameter, STATE[type(optimizer)])
        torch.set_rng_state(tensors[RNG])
    except (KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"the checkpoint cannot be resumed: its optimiser's or random state is of another "
            f"network or missing ({error})"
        ) from error


def _moments(
    saved: Mapping[str, Tensor], parameter: Tensor, names: Sequence[str]
) -> dict[str, Tensor]:
    """The optimiser's state of a parameter, with these names; empty before its first step."""
    if saved.keys() != {*names} and saved:
        raise RuntimeError(f"{', '.join(sorted(saved))} in place of {', '.join(names)}")
    moments = {}
    for name, value in saved.items():
        shape = torch.Size() if name in NUMBERS else parameter.shape
        if value.shape != shape or value.dtype != torch.float32:
            raise RuntimeError(f"{_kind(value)} in place of float32 {tuple(shape)}")
        like = torch.zeros(()) if name in NUMBERS else torch.zeros_like(parameter)
        moments[name] = like.copy_(value)
    return moments


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Weights and persistent buffers, once each: some networks have a module under two names."""
    once = {name for name, _ in chain(model.named_parameters(), model.named_buffers())}
    return {name: value for name, value in model.state_dict().items() if name in once}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def check_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Check that weights are those of `model`, which may be on the device `meta`.

    Raises:
        CheckpointError: they are those of another network, or no numbers.
    """
    expected = weights_of(model)
    if other := sorted(weights.keys() ^ expected.keys()):
        raise _other_network(f"{len(other)} names differ, such as {other[0]}")
    for name, value in weights.items():
        wanted = expected[name]
        if (value.shape, value.dtype) != (wanted.shape, wanted.dtype):
            raise _other_network(f"{name} is {_kind(value)}, expected {_kind(wanted)}")
        if not value.isfinite().all():
            raise CheckpointError(
                f"the checkpoint's {name} has NaN or infinity in it; use another checkpoint, or "
                "train again"
            )


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights, as `weights_of` names them, into `model`.

    Raises:
        CheckpointError: as `check_weights`.
    """
    check_weights(model, weights)
    model.load_state_dict(weights, strict=False)


def _other_network(how: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint does not fit the configured model ({how}): it is of another run; put this "
        "run's own back, or train again"
    )


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}".removeprefix("torch.")


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    """A checksum of everything: safetensors notices a short file but not a changed byte."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> Checkpoint:
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except InputError as error:
        found = reason_of(error)
        raise CheckpointError(f"{path}: {found}; expected a checkpoint") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or incomplete: {error}") from error
    if metadata is None:
        raise CheckpointError(f"{path}: a safetensors file, but no checkpoint of this project")
    try:
        header = json.loads(metadata)
        written_as, state, digest = header["format"], str(header["state"]), header["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged: its state cannot be read: {error}") from error
    if written_as != FORMAT:
        found = f"format {written_as}, this version reads {FORMAT}"
        raise CheckpointError(f"{path}: {found}; use the version that wrote it")
    if _digest(tensors, state) != digest:
        raise CheckpointError(f"{path}: damaged: its bytes do not match its checksum")
    try:
        return Checkpoint(tensors, dict(json.loads(state)))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged: its state is no JSON object: {error}") from error


def _offer_other(run_dir: Path, which: Which) -> str:
    others: tuple[Which, ...] = ("last",) if which == "best" else ("previous", "best")
    for other in others:
        try:
            _read(checkpoint_path(run_dir, other))
        except CheckpointError:
            continue
        if which == "best":
            return "; last.safetensors is whole: use it with --checkpoint last"
        return (
            f"; {other}.safetensors is whole: move {which}.safetensors away and resume "
            f"with {hints.option('--resume')} from the {other}"
        )
    names = " and no ".join(f"{other}.safetensors" for other in others)
    return f"; there is no usable {names} either"


def _link(source: Path, target: Path) -> None:
    """Make `target` a second name of a file, or a copy on a file system without hard links."""
    with replacing(target, sync=True) as unfinished:
        try:
            unfinished.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, unfinished)
