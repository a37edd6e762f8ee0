"""What a wheel holds, and that each stage runs with its own extra's packages alone."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
STAGES = ("preprocess", "train")

IMPORTS = """
import ast, importlib, importlib.abc, json, pkgutil, runpy, sys
from pathlib import Path

package, refused = sys.argv[1], set(json.loads(sys.argv[2]))
before = set(sys.modules)

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Refuse())
found = importlib.import_module(package)
names = [package, *(m.name for m in pkgutil.walk_packages(found.__path__, package + "."))]
for name in names:
    if not name.endswith(".__main__"):
        module = importlib.import_module(name)
        tree = ast.parse(Path(module.__file__).read_text("utf-8"))
        tried = {  # imports whose failure the module answers itself
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.Try)
            and any(ast.unparse(h.type or h) == "ImportError" for h in node.handlers)
            for inner in node.body
        }
        for node in set(ast.walk(tree)) - tried:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):  # within functions too
                importlib.import_module(node.module)
assert not refused & (set(sys.modules) - before), refused & set(sys.modules)
print(len(names))
if importlib.util.find_spec(package + ".__main__"):
    sys.argv = [package, "--help"]
    runpy.run_module(package, run_name="__main__", alter_sys=True)
"""


def closure(extra: str) -> set[str]:
    """Names of the distributions that `pip install .[extra]` brings; '' for no extra."""
    waiting, names = [Requirement(f"fm-net[{extra}]" if extra else "fm-net")], set[str]()
    done: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        if str(wanted) in done:
            continue
        done.add(str(wanted))
        try:
            found = distribution(wanted.name)
        except PackageNotFoundError:
            continue  # it is for another platform, or it would fail to import below
        names.add(canonicalize_name(wanted.name))
        for text in found.requires or ():
            needed = Requirement(text)
            extras = {"", *wanted.extras}
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(needed)
    return names


def refused(stage: str, extra: str) -> list[str]:
    """Top-level modules that are installed here and would not be with this extra alone."""
    there = closure(extra)
    own = {"common", stage}
    return sorted(
        module
        for module, names in packages_distributions().items()
        if module not in own | sys.stdlib_module_names
        and not {canonicalize_name(name) for name in names} & there
    ) + [other for other in STAGES if other != stage]


def imports(stage: str, extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", IMPORTS, stage, json.dumps(refused(stage, extra))],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=ROOT,
    )


@pytest.mark.parametrize(
    ("stage", "extra", "foreign"),
    [
        ("common", "", {"torch", "nvidia", "dask", "distributed", "s3fs", "matplotlib"}),
        ("preprocess", "preprocess", {"torch", "nvidia", "train", "matplotlib", "s3fs"}),
        ("train", "train", {"dask", "distributed", "dask_jobqueue", "preprocess", "s3fs"}),
    ],
)
def test_a_stage_imports_with_its_own_packages_alone(
    stage: str, extra: str, foreign: set[str]
) -> None:
    assert foreign <= set(refused(stage, extra))
    done = imports(stage, extra)
    assert done.returncode == 0, done.stderr
    modules = len(list((ROOT / stage).rglob("*.py")))
    assert int(done.stdout.split()[0]) == modules
    if stage != "common":
        assert "Usage: " in done.stdout


@pytest.mark.parametrize(("stage", "needs"), [("preprocess", "distributed"), ("train", "torch")])
def test_without_its_extra_a_stage_does_not_import(stage: str, needs: str) -> None:
    done = imports(stage, "")
    assert done.returncode != 0
    assert f"No module named '{needs}" in done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("common", "preprocess", "train", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("fmnet.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    built = subprocess.run(
        [*command, str(source)], capture_output=True, text=True, check=False, timeout=300
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return path


def test_a_wheel_holds_the_packages_and_their_data_and_no_tests(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in ("common", "preprocess", "train")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert set(names) == expected | {"fmnet.py"}
    assert "common/py.typed" in expected
    assert {f"train/presets/{name}.yaml" for name in ("fm_net", "unet", "demo")} <= expected
    assert "common/report/templates/page.html" in expected
    assert not any(name.startswith("tests") for name in names)


def test_what_a_wheel_holds_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        (scripts,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        text = archive.read(scripts).decode()
    assert "fmnet-preprocess = fmnet:preprocess" in text
    assert "fmnet-train = fmnet:train" in text
    program = (
        "import common.manifest as m; print(m.__file__); m.load_manifest();"
        "from importlib.resources import files;"
        "print(*(f.name for f in files('train.presets').iterdir()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
    )
    assert done.returncode == 0, done.stderr
    where, presets = done.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert "fm_net.yaml" in presets.split()
