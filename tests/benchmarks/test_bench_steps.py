"""The benchmark's sections of the step: rows in turns, peers, and what bounds it; dry, on a CPU."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from benchmarks.training.networks import missing
from benchmarks.training.peers import networks
from benchmarks.training.suite import Bench
from benchmarks.training.trial import Row, Trial, first, race, resident
from benchmarks.training.variants import COMPILE, VARIANTS, Variant, combination
from common.store import Store
from train.cli import app
from train.data.feed import Batch

SIZES = ("model.widths=[2,4]",)
PLAIN = Variant("base", "nothing")
BY_NAME = {variant.name: variant for variant in VARIANTS}


@pytest.fixture
def bench(store: Store) -> Bench:
    return Bench("unet", (), torch.device("cpu"), store, True, 0.0, lambda what: None)


@pytest.fixture
def batch(bench: Bench) -> Batch:
    with bench.begun("unet", *SIZES) as session:
        return resident(session.stream(), 2, bench.device)


@contextmanager
def plain(bench: Bench, batch: Batch) -> Iterator[Trial]:
    with PLAIN.begun(bench, "unet", SIZES, batch) as trial:
        yield trial


def test_a_resident_batch_holds_crops_as_they_are_stored(bench: Bench, store: Store) -> None:
    with bench.begun("unet", *SIZES) as session:
        stream = session.stream()
        held = resident(stream, 6, bench.device)
    assert held.image.shape == (6, 4, *store.crop)
    assert (held.image.dtype, held.label.dtype) == (torch.float16, torch.uint8)
    assert sorted(held.case_ids[:4]) == sorted(stream.case_ids)
    image, label = store.read_crop(held.case_ids[5])
    assert torch.equal(held.image[5], torch.from_numpy(image))
    assert torch.equal(held.label[5], torch.from_numpy(label))
    assert first(held, 2).case_ids == held.case_ids[:2]


def test_a_row_and_its_base_take_turns(bench: Bench, batch: Batch) -> None:
    with plain(bench, first(batch, 1)) as base:
        base.warm_up()
        row = race(bench, Row("unet", "x", 2), lambda: plain(bench, batch), base, 0.0)
    assert len(row.ms) == len(row.base_ms) == 3
    assert not row.failed
    assert row.ratio == pytest.approx(2 / median(row.ms) * median(row.base_ms))
    assert row.volumes_per_second == pytest.approx(2e3 / median(row.ms))
    assert row.peak_memory_gb is None
    assert row.precision in {"bf16", "fp32"}


def test_what_does_not_fit_is_said_and_costs_no_other_row(bench: Bench, batch: Batch) -> None:
    @contextmanager
    def too_large() -> Iterator[Trial]:
        with plain(bench, batch) as trial:

            def forward(image: Tensor) -> tuple[Tensor, ...]:
                raise torch.OutOfMemoryError("CUDA out of memory")

            trial.session.forward = forward
            yield trial

    with plain(bench, batch) as base:
        failed = race(bench, Row("unet", "large", 2), too_large, base, 0.0)
        after = race(bench, Row("unet", "base", 2), lambda: plain(bench, batch), base, 0.0)
    assert (failed.note, failed.failed, failed.ms) == ("not run: out of memory", True, [])
    assert failed.ratio is failed.volumes_per_second is None
    assert after.ms


def test_a_configuration_that_is_refused_is_a_rows_note(bench: Bench, batch: Batch) -> None:
    deep = ("model.widths=[1,1,1,1,1,1]",)
    row = race(
        bench, Row("unet", "deep", 2), lambda: PLAIN.begun(bench, "unet", deep, batch), None, 0.0
    )
    assert row.failed
    assert row.note.startswith("not run: ConfigError: model.widths has 6 levels")


def test_a_row_for_which_no_time_is_left(bench: Bench, batch: Batch) -> None:
    late = replace(bench, dry=False)
    row = race(late, Row("unet", "base", 2), lambda: plain(late, batch), None, 0.0)
    assert (row.note, row.failed, row.ms) == ("not run: no time was left", False, [])


@pytest.mark.slow
def test_a_compiler_that_fails_is_a_rows_note(
    bench: Bench, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with config.patch({"cpp.cxx": (None, "/bin/false")}), plain(bench, batch) as base:
        begin = COMPILE.begun
        row = race(
            bench, Row("unet", "compile", 2), lambda: begin(bench, "unet", SIZES, batch), base, 0.0
        )
    assert row.ms
    assert "torch.compile failed, training goes on without it" in row.note


@pytest.mark.parametrize("variant", ["NAdam tensor by tensor", "AdamW fused, another optimiser"])
def test_optimisers_have_the_settings_of_the_sessions_own(
    bench: Bench, batch: Batch, variant: str
) -> None:
    chosen = BY_NAME[variant]
    with plain(bench, batch) as one, chosen.begun(bench, "unet", SIZES, batch) as other:
        own, theirs = (trial.session.optimizer.param_groups[0] for trial in (one, other))
        assert len(own["params"]) == len(theirs["params"])
        assert {own[key] == theirs[key] for key in ("lr", "betas", "weight_decay")} == {True}
        assert (own["foreach"], own.get("fused")) != (theirs["foreach"], theirs.get("fused"))


def test_the_best_change_of_each_kind_goes_into_the_combination() -> None:
    graphs, half, compiled = BY_NAME["CUDA graphs"], BY_NAME["bf16"], COMPILE
    assert combination([(graphs, 1.3), (compiled, 1.2)]) is None
    together = combination([(graphs, 1.3), (compiled, 1.2), (half, 1.1)])
    assert together is not None
    assert together.name == "together: bf16 + CUDA graphs"
    assert together.overrides == ("precision=bf16",)
    assert together.graphs
    assert together.needs_gpu
    assert not together.compiles


def test_a_package_that_is_not_there_is_named_with_its_extra() -> None:
    assert missing("torch") == ""
    assert missing("no_such_package") == "not installed: make setup EXTRAS=train,peers"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, Any]]:
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    sections = [option for name in ("steps", "peers", "limits") for option in ("--only", name)]
    command = ["bench", "--device", "cpu", "--dry-run", "--out", str(file), *sections]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return result, json.loads(file.read_text("utf-8"))["sections"]


@pytest.mark.slow
def test_every_way_of_taking_a_step_has_its_row(ran: tuple[Result, dict[str, Any]]) -> None:
    rows = ran[1]["steps"]["rows"]
    for network in ("unet", "fm_net"):
        own = [row for row in rows if row["network"] == network]
        assert [row["batch"] for row in own[:3]] == [2, 1, 4]
        names = [variant.name for variant in (*VARIANTS, COMPILE)]
        assert [row["variant"] for row in own[3:-1]] == names
        assert own[-1]["variant"].startswith("together: channels first + bf16 + NAdam")
        left_out = {row["variant"]: row["note"] for row in own if not row["ms"]}
        assert set(left_out) == {"CUDA graphs", "NAdam capturable", "compile"}
        assert left_out["CUDA graphs"] == "not run: needs a GPU"
    assert not any(row["failed"] for row in rows)
    assert all(row["ratio"] > 0 and min(row["ms"]) > 0 for row in rows if row["ms"])
    table = ran[0].output
    for part in ("unet", "fm_net", "channels first", "tf32 needs", "another", "together"):
        assert part in table


@pytest.mark.slow
def test_peers_take_the_same_step(ran: tuple[Result, dict[str, Any]]) -> None:
    rows = ran[1]["peers"]["rows"]
    names = [network.name for network in networks(dry=True)]
    assert [row["network"] for row in rows[::2]] == names
    for row in rows:
        assert not row["failed"], row["note"]
        assert min(row["ms"]) > 0
        assert row["parameters"] > 0
        assert row["forward_gflop"] > 0
    assert [row["variant"] for row in rows[:2]] == ["channels last", "channels first"]
    for part in ("M weights", "DynUNet", "PlainConvUNet", "FM-Net"):
        assert part in ran[0].output


@pytest.mark.slow
def test_limits_have_work_bound_and_time_of_each_kind(
    ran: tuple[Result, dict[str, Any]],
) -> None:
    limits = ran[1]["limits"]
    assert set(limits["peaks"]["tflops"]) == {"fp32", "bf16"}
    assert limits["peaks"]["gb_per_second"] > 0
    for network in limits["networks"]:
        kinds = network["kinds"]
        assert kinds.keys() >= {
            "conv forward",
            "conv backward",
            "norm",
            "activation, gates",
            "pooling, upsampling",
            "concatenation",
            "loss",
            "optimiser",
            "gaps",
        }
        for name, kind in kinds.items():
            assert kind["measured_ms"] > 0 or name in {"gaps", "copies", "other"}
            assert (kind["bound_ms"] > 0) == (kind["gb"] > 0)
        assert network["bound_ms"] == pytest.approx(sum(k["bound_ms"] for k in kinds.values()))
        assert network["distance"] == median(network["step_ms"]) / network["bound_ms"]
        assert kinds["conv backward"]["gflop"] == pytest.approx(
            sum(backward for _, backward in network["layers"].values())
        )
        assert kinds["conv forward"]["measured_ms"] > kinds["concatenation"]["measured_ms"]
    assert "in the way first" in ran[0].output
