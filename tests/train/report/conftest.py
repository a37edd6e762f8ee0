"""Runs with scores, written without training: their cases are small masks that are scored."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import SESSION

from common.manifest import Manifest
from common.metrics import score_case
from common.splits import ListSplits
from common.task import GLIOMA
from train.calibration import BINS, count_voxels, total
from train.config import load_config
from train.results import CaseResult, ScoreFiles, fingerprint, rows_of, summarise
from train.run_folder import RunFile, write_config, write_manifest, write_run_file

SHAPE = (16, 18, 20)
HOSTILE = "<img src=x onerror=alert(1)> $x$"
MISSED, FALSE, EMPTY, PERFECT = "missed", "false-alarm", "empty", "perfect"
CASES = [MISSED, FALSE, EMPTY, PERFECT, HOSTILE, *(f"plain-{index:02d}" for index in range(9))]
COMMAND = "fmnet-train run </script><script>alert(1)</script>"
WARNING = "a store </script><b>of others</b>"


def ball(radius: float, shift: int = 0) -> np.ndarray:
    """Oedema around necrosis around enhancing tumour; canonical labels."""
    z, y, x = np.ogrid[tuple(slice(side) for side in SHAPE)]
    distance = np.sqrt((z - 8) ** 2 + (y - 9) ** 2 + (x - 9 - shift) ** 2)
    steps = [distance < radius / 3, distance < radius / 1.6, distance < radius]
    return np.select(steps, [3, 1, 2], 0).astype(np.uint8)


def masks(case_id: str, skill: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference and prediction; the more skill, the less the prediction is shifted."""
    nothing = np.zeros(SHAPE, np.uint8)
    special = {
        MISSED: (ball(5), nothing),
        FALSE: (nothing, ball(4)),
        EMPTY: (nothing, nothing),
        PERFECT: (ball(6), ball(6)),
    }
    index = CASES.index(case_id)
    return special.get(case_id, (ball(4 + index / 4), ball(4 + index / 4, 1 + index % 3 - skill)))


def result_of(case_id: str, skill: int) -> CaseResult:
    reference, prediction = masks(case_id, skill)
    scores = score_case(reference, prediction, (1.0, 1.0, 1.0))
    patient = case_id.split("-", maxsplit=1)[0]
    return CaseResult(
        case_id, patient, scores, (1.0, 1.0, 1.0), fingerprint(reference), "brats2023", "brats2023"
    )


def calibration(case_ids: list[str], skill: int) -> dict[str, object]:
    """Of a network that is surest in the middle of what it predicts."""
    everywhere = np.ones(SHAPE, bool)
    counts = []
    for case_id in case_ids:
        reference, prediction = masks(case_id, skill)
        logits = torch.from_numpy(4.0 * GLIOMA.to_regions(prediction) - 2)
        counts.append(count_voxels(logits, reference, everywhere, GLIOMA))
    regions = {region: each.as_json() for region, each in total(counts).items()}
    return {"bins": BINS, "regions": regions}


def epoch_rows(epochs: int, skill: int) -> list[dict[str, object]]:
    return [
        {
            "epoch": epoch,
            "train_loss": 4 / epoch,
            "val_loss": 5 / epoch if epoch % 2 == 0 else None,
            **{
                f"val_dice_{region}": 1 - 0.9 / epoch + skill / 100 if epoch % 2 == 0 else None
                for region in GLIOMA.regions
            },
            "steps": 10 * epoch,
            "skipped_steps": 0,
            "seconds": 60.0,
            "volumes_per_second": 2.0,
            "wait_share": 0.25,
            "validation_seconds": 30.0 if epoch % 2 == 0 else None,
        }
        for epoch in range(1, epochs + 1)
    ]


MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """Writes a run into a folder; without `case_ids` it has no evaluation."""

    def make(
        folder: Path,
        case_ids: list[str],
        *,
        skill: int = 0,
        epochs: int = 8,
        **changes: object,
    ) -> Path:
        folder.mkdir(parents=True)
        splits = ListSplits(kind="lists", train=("t",), val=("v",), test=tuple(case_ids))
        write_config(folder, load_config("unet", [f"seed={skill}"]))
        write_manifest(folder, Manifest(splits=splits))
        run = RunFile(
            preset="unet",
            seed=skill,
            init=None,
            store="/stores/cases.zarr",
            store_fingerprint="0123456789abcdef",
            cases={"train": ["t"], "val": ["v"], "test": case_ids},
            sessions=[SESSION.model_copy(update={"command": COMMAND})],
        )
        write_run_file(folder, run)
        lines = (json.dumps(row) + "\n" for row in epoch_rows(epochs, skill))
        (folder / "metrics.jsonl").write_text("".join(lines))
        if case_ids:
            results = [result_of(case_id, skill) for case_id in case_ids]
            files = ScoreFiles.beside(folder / "evaluation-test.json")
            files.write(results, summarise(rows_of(results)), about(case_ids, skill) | changes)
        return folder

    return make


def about(case_ids: list[str], skill: int) -> dict[str, object]:
    return {
        "checkpoint": "best",
        "epochs": 8,
        "split": "test",
        "store": "/stores/cases.zarr",
        "store_fingerprint": "0123456789abcdef",
        "warnings": [WARNING],
        "inference": {},
        "compute": "CPU",
        "cases": [
            {"case_id": case_id, "loss": 0.5, "outside": {"crop": index / 100, "box": 0.0}}
            for index, case_id in enumerate(case_ids)
        ],
        "calibration": calibration(case_ids, skill),
    }


@pytest.fixture(scope="session")
def one_run(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "one", CASES)


@pytest.fixture(scope="session")
def two_runs(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The second is better, and lacks a case."""
    folder = tmp_path_factory.mktemp("pairs")
    return make_run(folder / "low", CASES), make_run(folder / "high", CASES[:-1], skill=1)
