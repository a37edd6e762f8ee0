"""What a benchmark could get wrong: ratios, medians, counted work, rows that are not measured."""

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.limits import OPTIMISER, Peaks, count_step
from benchmarks.racing import Entry, measure_entry, race, resident
from benchmarks.rows import Row
from benchmarks.sections import Bench
from common.errors import ConfigError
from common.store import Store
from common.task import GLIOMA
from train.config import load_config
from train.data.loader import open_feed
from train.data.torch_loader import in_this_process
from train.loss import LossConfig, RegionLoss
from train.networks import parameter_count

CPU = torch.device("cpu")
LOSS = RegionLoss(LossConfig(), GLIOMA.regions)


@pytest.fixture
def bench(store: Store) -> Bench:
    return Bench(CPU, store, dry=True)


def shapes_of(preset: str, *overrides: str) -> nn.Module:
    with torch.device("meta"):
        return load_config(preset, overrides).model.build(4, 3)


# Rows


def test_rates_and_ratios() -> None:
    row = Row("unet", "x", 4, [1.0, 2.0, 30.0], [4.0, 1.0, 3.0], base_volumes=2)
    assert row.rate == 2
    assert row.ratio == pytest.approx(2 / (2 / 3))
    assert replace(row, typical="mean").rate == pytest.approx(4 / 11)
    assert row.times(Row("unet", "y", 1, [2.0])) == 4
    assert row.times(Row("unet", "y")) is None
    empty = Row("unet", "z", note="not run")
    assert empty.rate is empty.ratio is empty.typical_seconds is None
    json.dumps(row.to_json())


# Counted work


def test_fm_nets_step_computes_what_its_layers_say() -> None:
    model = shapes_of("fm_net")
    peaks = Peaks({"fp16": 100.0}, gb_per_second=1000.0)
    work = count_step(model, LOSS, (1, 4, 128, 128, 128), "fp16", peaks)
    forward = work["convolution"].flop / 2e9
    assert forward == pytest.approx(519, rel=5e-3)
    # A backward pass convolves twice, but for the images, which need no gradient.
    backward = work["convolution_backward"].flop / 2e9
    assert backward == pytest.approx(2 * forward - 27 * 4 * 32 * 128**3 / 1e9, rel=1e-6)
    assert work[OPTIMISER].moved_bytes == 4 * 10 * parameter_count(model.parameters())


class Alone(nn.Module):
    """One convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(4, 3, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.conv(image),)


def test_a_convolution_reads_and_writes_its_tensors_once() -> None:
    with torch.device("meta"):
        alone = Alone()
    peaks = Peaks({"fp32": 100.0}, gb_per_second=1000.0)
    work = count_step(alone, LOSS, (2, 4, 8, 8, 8), "fp32", peaks)
    voxels, weights = 2 * 8**3, 4 * 3 * 27 + 3
    forward = work["convolution"]
    assert forward.flop == 2 * 27 * 4 * 3 * voxels
    assert forward.moved_bytes == 4 * (4 * voxels + weights + 3 * voxels)


def test_an_operators_bound_is_what_takes_longer() -> None:
    peaks = Peaks({"fp16": 100.0}, gb_per_second=1000.0)
    assert peaks.bound_ms(6 * 10**12, 10**9, "fp16") == pytest.approx(60)
    assert peaks.bound_ms(0, 10**11, "fp16") == pytest.approx(100)


# Steps in turns


def test_a_resident_batch_holds_crops_as_they_are_stored(bench: Bench, store: Store) -> None:
    with bench.begun("unet", "batch_size=6") as session:
        held = resident(session.stream(), CPU)
    image, label = store.read_crop(held.case_ids[5])
    assert torch.equal(held.image[5], torch.from_numpy(image))
    assert torch.equal(held.label[5], torch.from_numpy(label))


def test_an_error_is_its_rows_note_and_costs_no_other_row(bench: Bench) -> None:
    base = Entry("unet", "unet")
    deep = replace(base, way="deep", overrides=("model.widths=[1,1,1,1,1,1]",))
    small = replace(base, way="small", batch=1)
    rows = race(bench, [base, deep, small])
    assert [bool(row.seconds) for row in rows] == [True, False, True]
    assert "ConfigError" in rows[1].note
    assert len(rows[2].seconds) == len(rows[2].base_seconds) == 3
    assert (rows[2].volumes, rows[2].base_volumes) == (1, 2)


class Large(Entry):
    """Needs more memory than there is."""

    @contextmanager
    def begun(self, bench):
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield


def test_out_of_memory_and_out_of_time_are_notes(bench: Bench) -> None:
    row = measure_entry(bench, Large("unet", "unet"), None, 0.0)
    assert (row.note, row.seconds) == ("not run: out of memory", ())
    row = measure_entry(replace(bench, dry=False), Entry("unet", "unet"), None, 0.0)
    assert (row.note, row.seconds) == ("not run: no time was left", ())


@pytest.mark.slow
def test_batches_of_one_process_are_those_of_the_dataloader(bench: Bench) -> None:
    with bench.begun("unet", "batch_size=3") as session:
        stream = session.epoch_stream()
    with open_feed("torch", stream, CPU, 1) as feed:
        for ours, _ in zip(in_this_process(stream, CPU), range(4), strict=False):
            theirs = next(feed)
            assert ours.case_ids == theirs.case_ids
            assert torch.equal(ours.image, theirs.image)
            assert torch.equal(ours.label, theirs.label)


# The command


def test_a_section_that_fails_is_in_the_file(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--crop", "16", "--out", f"{tmp_path}/", "--only", "pipeline"]
    deep = ["--set", "model.widths=[1,1,1,1,1,1,1]"]
    result = CliRunner().invoke(app, ["training", "demo", *options, *deep])
    assert result.exit_code == 1
    (file,) = tmp_path.glob("cpu-*.json")
    assert "64" in json.loads(file.read_text("utf-8"))["sections"]["pipeline"]["failed"]


def test_an_unknown_section_is_named() -> None:
    result = CliRunner().invoke(app, ["training", "--only", "pipelin"])
    assert isinstance(result.exception, ConfigError)
    assert "pipelin" in str(result.exception)
