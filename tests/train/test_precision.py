"""Devices, number formats, and gradient scaling."""

from pathlib import Path

import pytest
import torch

from benchmarks.sections import Bench
from benchmarks.synthetic import synthetic_store
from common.errors import ConfigError
from common.splits import SplitAssignment
from common.store import Store
from train import trainer
from train.checkpoint import capture
from train.config import load_config
from train.data.feed import Batch
from train.precision import (
    Compute,
    Precision,
    avoid_cpu_bf16_bug,
    choose_compute,
    configure_backends,
    cpu_has_bfloat16,
)
from train.session import Session, new_session, restore, save

CPU = torch.device("cpu")
CASES = SplitAssignment({"train": ["a", "b"], "val": [], "test": []})


def session_in(precision: Precision, store: Store, folder: Path) -> Session:
    config = load_config("fm_net", ["model.widths=[4,6,8]"])
    return new_session(folder, config, Compute(CPU, precision), store, CASES)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 4, 12, 12, 12, generator=generator).half()
    label = (image[:, 0] > 0.5).to(torch.uint8) * 3
    return Batch(image, label, ("a", "b"), 1, last=False)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns_and_keeps_weights_in_float32(
    precision: Precision, store: Store, tmp_path: Path
) -> None:
    session = session_in(precision, store, tmp_path)
    losses = [trainer.step(session, batch())[0] for _ in range(25)]
    assert losses[-1] < 0.9 * losses[0]
    assert {parameter.dtype for parameter in session.model.parameters()} == {torch.float32}
    assert session.scaler.is_enabled() == (precision == "fp16")


def test_half_precision_starts_near_float32(store: Store, tmp_path: Path) -> None:
    plain, half = (
        trainer.step(session_in(precision, store, tmp_path), batch())[0]
        for precision in ("fp32", "fp16")
    )
    assert half == pytest.approx(plain, rel=5e-3)


def test_an_overflow_is_skipped_and_lowers_the_scale(store: Store, tmp_path: Path) -> None:
    session = session_in("fp16", store, tmp_path)
    session.scaler.load_state_dict(session.scaler.state_dict() | {"scale": 2.0**40})
    before = [parameter.clone() for parameter in session.model.parameters()]
    _, usable = trainer.step(session, batch())
    assert not usable
    assert session.scaler.get_scale() == 2.0**39
    for old, new in zip(before, session.model.parameters(), strict=True):
        assert torch.equal(old, new)
    for _ in range(60):
        _, usable = trainer.step(session, batch())
        if usable:
            break
    assert usable
    scale = session.scaler.get_scale()
    save(session)
    other = session_in("fp16", store, tmp_path)
    restore(other)
    assert other.scaler.get_scale() == scale


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_goes_on_bit_for_bit(
    precision: Precision, store: Store, tmp_path: Path
) -> None:
    straight, first = (session_in(precision, store, tmp_path) for _ in range(2))
    for session in (straight, first):
        session.scaler.set_growth_interval(4)  # the scale grows after the interruption
    for _ in range(6):
        trainer.step(straight, batch())
    for _ in range(3):
        trainer.step(first, batch())
    save(first)
    second = session_in(precision, store, tmp_path)
    restore(second)
    for _ in range(3):
        trainer.step(second, batch())
    assert second.scaler.state_dict() == straight.scaler.state_dict()
    assert (second.scaler.get_scale() > first.scaler.get_scale()) == (precision == "fp16")
    ours, theirs = (capture(session.model, session.optimizer) for session in (second, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_cpu_gets_what_it_computes_in() -> None:
    fits = "bf16" if cpu_has_bfloat16() else "fp32"
    assert choose_compute("cpu", "auto") == Compute(CPU, fits)
    asked = choose_compute("cpu", "fp16")
    assert asked.precision == fits
    assert asked.note == f"fp16 needs a GPU; this run computes in {fits}"
    assert choose_compute("cpu", "fp32").note == ""
    rounded = Compute(CPU, "fp32", "tf32 needs a GPU; this run computes in fp32")
    assert choose_compute("cpu", "tf32") == rounded


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device: '{device}'"):
        choose_compute(device, "auto")


@pytest.mark.parametrize("planes", [3, 4, 6])
def test_gradients_in_bfloat16_are_near_those_in_float32(
    planes: int, store: Store, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 4, 4 * planes, 16, 16, generator=generator)
    label = (image[:, 0] > 0.5).to(torch.uint8) * 3
    gradients = []
    for precision in ("fp32", "bf16"):
        config = load_config("unet", ["model.widths=[8,16,32]"])
        session = new_session(tmp_path, config, Compute(CPU, precision), store, CASES)  # type: ignore[arg-type]
        trainer.step(session, Batch(image, label, ("a",), 1, last=False))
        gradients.append(
            torch.cat([p.grad.flatten() for p in session.model.parameters() if p.grad is not None])
        )
    assert (gradients[0] - gradients[1]).norm() < 0.1 * gradients[0].norm()


def test_two_planes_at_the_deepest_are_not_left_to_bfloat16_on_a_cpu() -> None:
    bf16, fp32 = Compute(CPU, "bf16"), Compute(CPU, "fp32")
    assert avoid_cpu_bf16_bug(bf16, 2).precision == "fp32"
    assert "two planes" in avoid_cpu_bf16_bug(bf16, 2).note
    assert avoid_cpu_bf16_bug(bf16, 4) == bf16
    assert avoid_cpu_bf16_bug(fp32, 2) == fp32
    gpu = Compute(torch.device("cuda"), "bf16")
    assert avoid_cpu_bf16_bug(gpu, 2) == gpu


def test_a_run_on_such_crops_says_so(tmp_path: Path) -> None:
    small = synthetic_store(tmp_path, side=16)
    bench = Bench(CPU, small, dry=True)
    with bench.begun("demo", "precision=bf16", "model.widths=[4,8,12,16]") as session:
        assert session.compute.precision == "fp32"
        assert "two planes" in session.compute.note


@pytest.mark.parametrize(("precision", "rounded"), [("tf32", True), ("fp32", False)])
def test_whether_a_gpu_may_round_float32(precision: Precision, rounded: bool) -> None:
    cudnn = torch.backends.cudnn
    try:
        configure_backends(Compute(CPU, precision), deterministic=False)
        old = not hasattr(cudnn, "conv")  # before torch 2.9
        assert (cudnn.allow_tf32 if old else cudnn.conv.fp32_precision == "tf32") == rounded
        assert torch.get_float32_matmul_precision() == ("high" if rounded else "highest")
        assert torch.backends.cuda.matmul.allow_tf32 == rounded  # which the compiler reads
    finally:
        configure_backends(Compute(CPU, "fp32"), deterministic=False)
