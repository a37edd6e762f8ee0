"""The device of a run, and the number format of its convolutions.

What the machine cannot do is replaced; a note then says so at the start of the run.
"""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from common.errors import ConfigError

Precision = Literal["fp16", "bf16", "tf32", "fp32"]
"""Mixed precision with float16 or bfloat16, or float32 with products in TF32 or not."""

DTYPES: dict[Precision, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "tf32": torch.float32,
    "fp32": torch.float32,
}

TF32_CAPABILITY = (8, 0)  # compute capability from which GPUs multiply in TF32


@dataclass(frozen=True)
class Compute:
    """Where and in which precision a run computes."""

    device: torch.device
    precision: Precision
    note: str = ""  # why this is not what was configured, or why it may be slow; else empty

    def autocast(self) -> AbstractContextManager[None]:
        """The context of a forward pass; loss and optimiser stay outside it."""
        if DTYPES[self.precision] == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    def describe(self) -> str:
        """The device's name and the precision."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        return f"CPU ({torch.get_num_threads()} threads), {self.precision}"

    def peak_memory_gb(self) -> float:
        """Peak memory: of the GPU, or on a CPU of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


@contextmanager
def told_as_out_of_memory() -> Iterator[None]:
    """Raise each way in which memory can be too small as torch's error of a full device.

    Raises:
        torch.OutOfMemoryError: it is too small.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def configure_backends(compute: Compute, *, deterministic: bool) -> None:
    """Set torch's determinism, cuDNN's search for algorithms and float32 products for this process.

    cuDNN tries its algorithms unless `deterministic` (docs/decisions/0014). On a GPU torch warns of
    operations that it has no deterministic form of.
    """
    on_gpu = compute.device.type == "cuda"
    if deterministic and on_gpu:  # read when cuBLAS starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=on_gpu)
    torch.backends.cudnn.benchmark = not deterministic
    configure_float32(compute.precision)


def configure_float32(precision: Precision) -> None:
    """Set for this process whether a GPU rounds the factors of float32 products to TF32.

    By default torch does so in convolutions. Torch 2.9 renamed the setting; torch's exporter still
    reads the old name too, and both must agree.
    """
    allowed = precision == "tf32"
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    cudnn = torch.backends.cudnn
    cudnn.allow_tf32 = allowed
    if hasattr(cudnn, "conv"):
        cudnn.conv.fp32_precision = "tf32" if allowed else "ieee"
        cudnn.rnn.fp32_precision = cudnn.conv.fp32_precision  # type: ignore[attr-defined]  # stub


def choose_compute(device: str, precision: Precision | Literal["auto"]) -> Compute:
    """Resolve a configured device ("auto", "cpu", "cuda", "cuda:1") and precision.

    float16 on a CPU is emulated and slow, so a CPU gets bfloat16 where it has instructions for it,
    else float32.

    Raises:
        ConfigError: the device is not on this machine, or the GPU has no bfloat16.
    """
    where = _choose_device(device)
    return _on_cuda(where, precision) if where.type == "cuda" else _on_cpu(where, precision)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def avoid_cpu_bf16_bug(compute: Compute, planes: int) -> Compute:
    """The same, but in float32 where bfloat16 gradients would be wrong.

    On processors with bfloat16 instructions, oneDNN (as of torch 2.13) does not write the middle of
    a 3-D convolution's weight gradient where its input, here the network's deepest features, is two
    planes deep.
    """
    if compute.device.type != "cpu" or compute.precision != "bf16" or planes != 2:
        return compute
    note = (
        "the network's deepest features have two planes, for which bf16 gradients on a CPU can be "
        "wrong; this run computes in fp32"
    )
    return replace(compute, precision="fp32", note=note)


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device: {device!r} is none; use auto, cpu, cuda or cuda:N") from error
    if where.type not in {"cpu", "cuda"}:
        raise ConfigError(f"device: {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} CUDA devices"
        raise ConfigError(f"device: {device!r} asked for, but torch finds {found}; use auto or cpu")
    return where


def _on_cuda(device: torch.device, precision: Precision | Literal["auto"]) -> Compute:
    if precision == "auto":
        return Compute(device, "fp16")
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise ConfigError(f"precision: {name} has no bfloat16; use fp16, fp32 or auto")
    if precision == "tf32" and torch.cuda.get_device_capability(device) < TF32_CAPABILITY:
        note = f"{torch.cuda.get_device_name(device)} has no TF32; this run computes in fp32"
        return Compute(device, "fp32", note)
    return Compute(device, precision)


def _on_cpu(device: torch.device, precision: Precision | Literal["auto"]) -> Compute:
    if precision == "fp32":
        return Compute(device, precision)
    if precision == "bf16":
        note = "" if cpu_has_bfloat16() else "this CPU emulates bf16, fp32 is faster"
        return Compute(device, precision, note)
    if precision == "tf32":
        return Compute(device, "fp32", "tf32 needs a GPU; this run computes in fp32")
    fits: Precision = "bf16" if cpu_has_bfloat16() else "fp32"
    note = f"fp16 needs a GPU; this run computes in {fits}" if precision == "fp16" else ""
    return Compute(device, fits, note)


class Compiled:
    """A network's forward pass in training mode, compiled for each shape of its input.

    Parameters, checkpoints and evaluation are the network's own. If compiling fails once,
    `on_failure` gets the reason, and the network runs as it is.
    """

    def __init__(self, model: nn.Module, on_failure: Callable[[str], None]) -> None:
        self.failed = False
        self._model, self._on_failure = model, on_failure
        self._forward: Callable[[Tensor], tuple[Tensor, ...]] = model
        self._ready = set[torch.Size]()

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs; the first call for a shape compiles."""
        if image.shape not in self._ready and not self.failed:
            self._prepare(image)
        return self._forward(image)

    def _prepare(self, image: Tensor) -> None:
        """Run forward and backward once: each is compiled when it is first needed."""
        try:
            self._forward = torch.compile(self._model, dynamic=False)
            total = torch.stack([output.float().mean() for output in self._forward(image)]).sum()
            torch.autograd.grad(total, tuple(self._model.parameters()), allow_unused=True)
            self._ready.add(image.shape)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - every compiler behind it has its own errors
            self._forward, self.failed = self._model, True
            why = " ".join(str(error).split())[:200]
            self._on_failure(
                "torch.compile failed, training continues without it "
                f"({type(error).__name__}: {why})"
            )
