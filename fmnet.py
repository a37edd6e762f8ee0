"""The console scripts' entry points, under a name that no other code has.

`common`, `preprocess` and `train` are names that a working folder may have as well, which
`PYTHONPATH` may name.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent


def preprocess() -> None:
    """`fmnet-preprocess`."""
    _own_packages_first()
    from preprocess.__main__ import main

    main()


def train() -> None:
    """`fmnet-train`."""
    _own_packages_first()
    from train.__main__ import main

    main()


def _own_packages_first() -> None:
    """Import this program's packages from beside this file, here and in worker processes."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # workers do not import from the working folder
    for name in ("common", "preprocess", "train"):
        spec = find_spec(name)
        if spec is None or spec.origin != str(HERE / name / "__init__.py"):
            sys.path.insert(0, str(HERE))
            return
