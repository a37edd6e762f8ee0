"""FM-Net from Python, and the console scripts' entry points; docs/python.md shows how to use it.

Importing it is cheap: torch and the like are imported by the functions that need them. `common`,
`preprocess` and `train` are names that a working folder may have as well, which `PYTHONPATH` may
name; this module has a name that no other code has.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

HERE = Path(__file__).parent


def _own_packages_first() -> None:
    """Import this program's packages from beside this file.

    Raises:
        ImportError: other code of such a name is imported already.
    """
    for name in ("common", "preprocess", "train"):
        spec = find_spec(name)
        if spec is None or spec.origin != str(HERE / name / "__init__.py"):
            if name in sys.modules:
                raise ImportError(f"another package called {name} is imported: import fmnet first")
            sys.path.insert(0, str(HERE))
            return


_own_packages_first()

from common.errors import ConfigError, FMNetError, PredictionError  # noqa: E402 - see above

if TYPE_CHECKING:
    import numpy as np
    import xarray
    from numpy.typing import ArrayLike, NDArray

    from common.metrics import CaseScores
    from common.task import Task
    from train.arrays import ArrayPrediction
    from train.ensemble import Predictor

__all__ = ["FMNetError", "Model", "PredictionError", "load", "open_store", "score"]


class Model:
    """A trained model, ready to predict; `load` makes it."""

    def __init__(self, predictor: "Predictor") -> None:
        self._predictor = predictor

    @property
    def modalities(self) -> tuple[str, ...]:
        """The images that it sees, in the order of arrays."""
        return self._predictor.needed

    @property
    def regions(self) -> tuple[str, ...]:
        """What it predicts, in the order of `probabilities`."""
        return self._predictor.task.region_names

    @property
    def labels(self) -> dict[str, int]:
        """Label to its value in the masks of `predict_array`."""
        return dict(self._predictor.task.labels)

    def predict(
        self, data: str | Path, out: str | Path, *, probabilities: bool = False
    ) -> dict[str, Path]:
        """Write a mask for each case, as `fmnet-train predict` does; case id to its file.

        `data` is the folder of a case, of a cohort, or a store; `out` a folder, or the NIfTI file
        of a single mask. What is unusual about a case is a `UserWarning`.

        Raises:
            PredictionError: some cases have no mask; those of the others are written.
            FMNetError: nothing can be predicted.
        """
        from common.alike import finding_lines
        from train.predict import predict

        done = predict(self._predictor, data, Path(out), probabilities=probabilities)
        errors = [str(finding) for finding in done.findings if finding.severity == "error"]
        found = [finding for finding in done.findings if finding.severity == "warning"]
        unusual = [line.plain for line in finding_lines([*found, *done.case_warnings])]
        for line in (*unusual, *done.warnings, *filter(None, [done.unnoted])):
            warnings.warn(line.removeprefix("warning: "), stacklevel=2)
        if not done.clean:
            failed = [f"{case_id}: {reason}" for case_id, reason in done.failures.items()]
            raise PredictionError("\n".join([*errors, *failed]))
        return done.written

    def predict_array(
        self, image: "ArrayLike", spacing_mm: float | Sequence[float]
    ) -> "NDArray[np.uint8]":
        """Labels (D, H, W) of raw intensities (modalities, D, H, W), normalised as files are.

        Axes are LPS: D from the feet to the head, H from the face to the back, W from the right to
        the left. 0 is the background. `spacing_mm` is one number or (z, y, x). What is unusual
        about the images is a `UserWarning`.

        Raises:
            FMNetError: the images cannot be used.
        """
        return self._of_array(image, spacing_mm).labels

    def probabilities(
        self, image: "ArrayLike", spacing_mm: float | Sequence[float]
    ) -> "NDArray[np.float32]":
        """Probabilities (regions, D, H, W); image and spacing are as in `predict_array`.

        Raises:
            FMNetError: the images cannot be used.
        """
        return self._of_array(image, spacing_mm).probabilities

    def _of_array(
        self, image: "ArrayLike", spacing_mm: float | Sequence[float]
    ) -> "ArrayPrediction":
        from train.arrays import predict_array

        found = predict_array(self._predictor, image, spacing_mm)
        for finding in found.warnings:
            warnings.warn(str(finding), stacklevel=3)
        return found


def load(
    path: str | Path,
    *,
    checkpoint: Literal["best", "last"] = "best",
    device: str = "auto",
    settings: Sequence[str] = (),
) -> Model:
    """Load a run's folder or a model file; several with commas between them predict together.

    `device` is auto, cpu, cuda or cuda:N. `settings` are of how to predict: `inference.flips=8`.

    Raises:
        FMNetError: there is no such model, or it is damaged.
    """
    from train.ensemble import load_runs

    return Model(load_runs(str(path), checkpoint, device, settings))


def score(
    reference: "NDArray[np.uint8]",
    prediction: "NDArray[np.uint8]",
    spacing_mm: tuple[float, float, float],
    *,
    task: str = "glioma",
    rules: str | None = "brats2023",
) -> "CaseScores":
    """Compare labels (D, H, W) of one grid, whose spacing is (z, y, x), by region and by lesion.

    Values are the task's canonical ones: 1 necrotic core, 2 oedema, 3 enhancing tumour for glioma.
    Without `rules` no lesions are scored.

    Raises:
        ConfigError: there is no such task.
        ValueError: shapes, spacing, values or rules are wrong.
    """
    from common.metrics import score_case

    return score_case(reference, prediction, spacing_mm, _task(task), rules=rules)


def open_store(path: str | Path) -> "xarray.Dataset":
    """A store's training crops as xarray, read when they are used; needs the extra `xarray`.

    `image` (case, modality, z, y, x) and `label` (case, z, y, x), with names of cases and
    modalities. A case without a label has 255 in all of it.

    Raises:
        ConfigError: xarray is not installed.
        FMNetError: there is no such store, or it cannot be read.
    """
    from common.store.as_xarray import crops

    dataset: xarray.Dataset = crops(path)
    return dataset


def _task(name: str) -> "Task":
    from common.task import TASKS

    if name not in TASKS:
        raise ConfigError(f"task: no task is called {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name]


def preprocess() -> None:
    """`fmnet-preprocess`."""
    _workers_are_safe()
    from preprocess.__main__ import main

    main()


def train() -> None:
    """`fmnet-train`."""
    _workers_are_safe()
    from train.__main__ import main

    main()


def _workers_are_safe() -> None:
    """Worker processes do not import from the working folder."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")
