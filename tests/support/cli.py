"""The command lines, run in this process: what they print and their exit codes."""

import io
import os
import signal
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import typer

from common import console


def invoke(
    app: typer.Typer, *arguments: object, columns: int = 200, cwd: Path | None = None
) -> CompletedProcess[str]:
    """Run a command as its script does, but for a new interpreter's seconds."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, chdir(cwd or Path.cwd()):
        patch.setattr(sys, "argv", ["fmnet", *map(str, arguments)])
        patch.setitem(os.environ, "COLUMNS", str(columns))
        try:
            with redirect_stdout(out), redirect_stderr(err):
                console.run(app)
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            signal.signal(signal.SIGTERM, handler)
    return CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())
