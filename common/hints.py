"""Commands and options in messages: make's targets and variables under make, else console scripts.

Modules are never named: `python -m train` would run a `train.py` in the working folder.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

UNDER_MAKE = "FMNET_MAKE"
"""The environment variable that the Makefile sets for the commands it runs."""


def preprocess(
    store: str, data: str = "/path/to/brats", *settings: str, manifest: Path | None = None
) -> str:
    """Preprocess a folder of cases into a store; make has no variable for a manifest."""
    make = ["preprocess", f"DATA={data}", f"STORE={store}"]
    script = ["run", data, "--store", store]
    if manifest:
        script += ["--manifest", str(manifest)]
    return _command(make + _variable(settings), "fmnet-preprocess", script + _options(settings))


def status(store: str) -> str:
    """Show which cases are stored, failed or missing."""
    return _command(["status", f"STORE={store}"], "fmnet-preprocess", ["status", store])


def verify(store: str, *, repair: bool = False) -> str:
    """Verify a store."""
    make = ["verify", f"STORE={store}", *(["REPAIR=1"] if repair else [])]
    script = ["verify", *(["--repair"] if repair else []), store]
    return _command(make, "fmnet-preprocess", script)


def report(store: str) -> str:
    """Write a store's quality report."""
    return _command(["report", f"STORE={store}"], "fmnet-preprocess", ["report", store])


def train(store: str | None = None, run: Path | str = "runs/fm_net") -> str:
    """Train a network; without a store, on the default one."""
    make = ["train", *([f"STORE={store}"] if store else []), f"RUN={run}"]
    script = ["run", *(["--store", store] if store else []), "--out", str(run)]
    return _command(make, "fmnet-train", script)


def resume(store: str, run: Path | str, *settings: str) -> str:
    """Resume a run, with `key=value` settings."""
    make = ["train", f"STORE={store}", f"RUN={run}", "RESUME=1"]
    script = ["run", "--store", store, "--out", str(run), "--resume"]
    return _command(make + _variable(settings), "fmnet-train", script + _options(settings))


def evaluate(run: Path | str, checkpoint: str = "best") -> str:
    """Evaluate a run on its own store; make has no variable for the checkpoint."""
    make = ["evaluate", f"RUN={run}"] if checkpoint == "best" else None
    chosen = [] if checkpoint == "best" else ["--checkpoint", checkpoint]
    return _command(make, "fmnet-train", ["evaluate", str(run), *chosen])


def predict(run: Path | str, checkpoint: str = "best") -> str:
    """Predict masks for new cases."""
    data, masks = "/path/to/cases", "predictions"
    make = ["predict", f"INPUT={data}", f"RUN={run}"] if checkpoint == "best" else None
    chosen = [] if checkpoint == "best" else ["--checkpoint", checkpoint]
    return _command(make, "fmnet-train", ["predict", str(run), data, "--out", masks, *chosen])


def run_report(run: Path | str) -> str:
    """Write a run's report; make has no target for it."""
    return _command(None, "fmnet-train", ["report", str(run)])


def compare(scores: Path | str) -> str:
    """Compare a folder of scores with others; make has no target for it."""
    return _command(None, "fmnet-train", ["compare", str(scores), "OTHER_SCORES"])


def option(name: str, value: str = "", *, variable: str = "") -> str:
    """An option to add to the command that is running: `--resume`, or `RESUME=1` under make.

    A switch has no value. `variable` is the Makefile's where it has another name.
    """
    if _under_make():
        variable = variable or name.removeprefix("--").replace("-", "_").upper()
        return shlex.quote(f"{variable}={value or '1'}")
    return f"{name} {shlex.quote(value)}" if value else name


def settings(*values: str) -> str:
    """Settings to add to the command that is running."""
    if _under_make():
        return f"SET={shlex.quote(' '.join(values))}"
    return " ".join(f"--set {shlex.quote(value)}" for value in values)


def _variable(settings: Sequence[str]) -> list[str]:
    return [f"SET={' '.join(settings)}"] if settings else []


def _options(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def _under_make() -> bool:
    return bool(os.environ.get(UNDER_MAKE))


def _command(make: list[str] | None, script: str, arguments: list[str]) -> str:
    if make is not None and _under_make():
        return shlex.join(["make", *make])
    return shlex.join([_script(script), *arguments])


def _script(name: str) -> str:
    """A console script's name, or its path where its environment is not activated."""
    path = Path(sys.executable or name).parent / name
    found = shutil.which(name)
    if not path.exists() or (found and Path(found) == path):
        return name
    try:
        shown = path.relative_to(Path.cwd())
    except (OSError, ValueError):  # the working folder is gone, or the script is not below it
        return str(path)
    return str(shown) if len(shown.parts) > 1 else f"./{shown}"
