"""Preprocessing by FM-Net, nnU-Net v2 and NVIDIA's nnU-Net, side by side on one folder of cases.

A turn takes about 130 MB a case below the cache, deleted at the end.

The peers run as published, in their own environments below the cache: nnU-Net as released, NVIDIA's
as its BraTS21 notebook says, the cell that stacks, then preprocess.py. Laying the cases out is not
counted. The tools take turns; a step's least time counts, as other work only adds time.

"whole" is a command from start to end. "further" is what a case takes beyond a few, which each turn
also measures. It leaves out what a large cohort does not feel: imports, starting processes, the
fixed number of voxels that nnU-Net draws for its fingerprint. A small folder needs copies. The
floor is SimpleITK reading the five files of each case.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine, processor
from common.discovery import discover
from common.files import write_json
from common.manifest import load_manifest, manifest_path
from common.nifti import read, write
from common.task import MODALITIES

ROOT = Path(__file__).resolve().parents[1]
FLOOR, OURS, NNUNET, NVIDIA = "floor", "FM-Net", "nnU-Net v2", "NVIDIA nnU-Net"

# Torch and SimpleITK are those of constraints.txt. NVIDIA's own pins need Python 3.8.
PINS = {
    NNUNET: "nnunetv2==2.8.1",
    NVIDIA: "torch monai==1.6.1 nibabel==5.4.2 joblib==1.6.0 scikit-image==0.26.0 "
    "pytorch-lightning==2.6.6",
}
REPOSITORY = "https://github.com/NVIDIA/DeepLearningExamples"
COMMIT = "729963dd47e7c8bd462ad10bfac7a7b0b604e6dd"
FOLDER = "PyTorch/Segmentation/nnUNet"

ENVIRONMENT = {
    # The processes are to be the only ones who share the cores.
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "nnUNet_raw": "../nnunet",
    "nnUNet_preprocessed": "nnunet",
    "nnUNet_results": "results",
}

READER = """
import sys
from multiprocessing import Pool
from pathlib import Path
import SimpleITK
def read(path):
    SimpleITK.ReadImage(str(path))
if __name__ == "__main__":
    with Pool(int(sys.argv[1])) as pool:
        pool.map(read, Path("../cohort").glob("*/*"), chunksize=1)
"""


@dataclass
class Step:
    """One command of a tool, run in a new folder beside the cases, and its seconds each turn."""

    tool: str
    name: str
    command: list[str]
    whole: list[float] = field(default_factory=list)
    few: list[float] = field(default_factory=list)


def compare(  # noqa: PLR0913, PLR0917 - as many as the command has options
    data: Path, json_file: Path, processes: int, copies: int, repeats: int, cache: Path
) -> None:
    """Measure all tools in turns, print the table and write the JSON file."""
    pythons = {OURS: sys.executable} | {tool: install(cache, tool, PINS[tool]) for tool in PINS}
    nvidia = clone(cache / "DeepLearningExamples")
    chosen = labelled(data) * copies
    chosen = chosen[: len(chosen) // processes * processes]  # the processes end together
    few = chosen[: 2 * processes]
    if len(few) == len(chosen):
        sys.exit(
            f"{data}: {len(chosen)} labelled cases, expected more than two a process; take each "
            "several times with --copies"
        )
    steps = [*our_steps(processes), *nnunet_steps(pythons[NNUNET], processes)]
    steps += nvidia_steps(pythons[NVIDIA], nvidia, processes)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        lay_out(few, Path(folder, "few"))
        lay_out(chosen, Path(folder, "whole"))
        for turn in range(repeats):
            for name in ("few", "whole"):
                take_turns(steps, Path(folder, name), turn)
    measured = machine() | {
        "processes": processes,
        "cases": {"whole": len(chosen), "few": len(few)},
        "versions": {tool: versions(python) for tool, python in pythons.items()},
        "nvidia_commit": COMMIT,
        "steps": [asdict(step) for step in steps],
    }
    write_json(json_file, measured)
    title = f"{processor()}: {processes} process(es), {len(chosen)} cases, {len(few)} few"
    Console(width=110).print(table(steps, len(chosen), len(few), title))


def install(cache: Path, tool: str, packages: str) -> str:
    """The Python of a peer's environment, which is made where it is not there."""
    python = cache / tool.replace(" ", "-") / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    pip = f"-m pip install --quiet {packages} -c constraints.txt".split()
    subprocess.run([python, *pip], check=True, cwd=ROOT)
    return str(python)


def clone(target: Path) -> Path:
    """NVIDIA's preprocessing as published, without the rest of its repository."""
    if not target.exists():
        sparse = ("--quiet", "--filter=blob:none", "--no-checkout")
        output("git", "clone", *sparse, REPOSITORY, str(target))
    here = ("git", "-C", str(target))
    # Without its folder `triton`, which torch would take for the package of that name.
    needed = [f"{FOLDER}/{name}" for name in ("data_preprocessing", "notebooks", "utils")]
    output(*here, "sparse-checkout", "set", *needed)
    output(*here, "checkout", "--quiet", COMMIT)
    return target / FOLDER


def versions(python: str) -> list[str]:
    return output(python, "-m", "pip", "list", "--format=freeze").split("\n")


def output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def labelled(data: Path) -> list[list[Path]]:
    """Each case's files: the modalities in the order of MODALITIES, then the label."""
    found = discover(data, load_manifest(manifest_path(None, data))).cases
    return [[*(case.images[m] for m in MODALITIES), case.label] for case in found if case.label]


def lay_out(cases: list[list[Path]], root: Path) -> None:
    """Links to the cases under BraTS 2021's names, which NVIDIA's notebook demands, for nnU-Net
    under numbered channels, with labels that have no gap (3 for 4).
    """
    dataset = root / "nnunet" / "Dataset001_BraTS"
    (dataset / "imagesTr").mkdir(parents=True)
    (dataset / "labelsTr").mkdir()
    for number, (*images, label) in enumerate(cases):
        case_id = f"BraTS2021_{number:05d}"
        folder = root / "cohort" / case_id
        folder.mkdir(parents=True)
        (folder / f"{case_id}_seg.nii.gz").symlink_to(label.resolve())
        for channel, source in enumerate(images):
            (folder / f"{case_id}_{MODALITIES[channel]}.nii.gz").symlink_to(source.resolve())
            numbered = dataset / "imagesTr" / f"{case_id}_{channel:04d}.nii.gz"
            numbered.symlink_to(source.resolve())
        volume = read(label)
        values = np.where(volume.voxels == 4, 3, volume.voxels).astype(np.uint8)
        write(dataset / "labelsTr" / f"{case_id}.nii.gz", values, volume.geometry)
    classes = ("background", "necrosis", "oedema", "enhancing")
    description = {"channel_names": dict(enumerate(MODALITIES)), "numTraining": len(cases)}
    description |= {"labels": {c: i for i, c in enumerate(classes)}, "file_ending": ".nii.gz"}
    (dataset / "dataset.json").write_text(json.dumps(description), "utf-8")


def our_steps(processes: int) -> list[Step]:
    # No splits: a few cases may leave one empty, which FM-Net refuses.
    run = f"run ../cohort --store our.zarr --workers {processes} --set".split()
    script = str(Path(sys.executable).with_name("fmnet-preprocess"))
    command = [script, *run, "splits={kind: fractions, train: 1, val: 0, test: 0}"]
    return [
        Step(FLOOR, "read", [sys.executable, "-c", READER, str(processes)]),
        Step(OURS, "run", command),
    ]


def nnunet_steps(python: str, processes: int) -> list[Step]:
    prefix = f"{Path(python).parent}/nnUNetv2_"
    preprocess = f"{prefix}preprocess -d 1 -c 3d_fullres -np {processes}"
    return [
        Step(NNUNET, "fingerprint", f"{prefix}extract_fingerprint -d 1 -np {processes}".split()),
        Step(NNUNET, "plan", f"{prefix}plan_experiment -d 1".split()),
        Step(NNUNET, "preprocess", preprocess.split()),
    ]


def nvidia_steps(python: str, code: Path, processes: int) -> list[Step]:
    notebook = json.loads((code / "notebooks" / "BraTS21.ipynb").read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"]]
    (cell,) = (cell for cell in cells if "def prepare_dataset(" in cell)
    definitions = cell.partition("\nprepare_dataset(")[0].replace("os.cpu_count()", str(processes))
    # It tells files apart by what their whole path contains, so that must be relative.
    stack = f'{definitions}\nprepare_dataset("BraTS2021_train", True)\n'
    options = f"--task 11 --ohe --n_jobs {processes} --data . --results arrays".split()
    preprocess = [python, str(code / "preprocess.py"), *options]
    return [
        Step(NVIDIA, "stack", [python, "-c", stack]),
        Step(NVIDIA, "preprocess.py", preprocess),
    ]


def take_turns(steps: list[Step], root: Path, turn: int) -> None:
    # A new one, and the old ones stay: for a minute ext4 passes over inodes that became free, which
    # took 3 % of FM-Net's time.
    folder = root / f"turn-{turn}"
    # NVIDIA's notebook overwrites labels and deletes the rest: it gets copies.
    shutil.copytree(root / "cohort", folder / "BraTS2021_train")
    for step in steps:
        env, began = os.environ | ENVIRONMENT, time.perf_counter()
        done = subprocess.run(
            step.command, cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - began
        print(f"{root.name}: {step.tool}, {step.name}: {seconds:.2f} s", flush=True)
        if done.returncode:
            sys.exit(f"exit code {done.returncode}\n{(done.stdout + done.stderr)[-5000:]}")
        getattr(step, root.name).append(seconds)


def table(steps: list[Step], cases: int, few: int, title: str) -> Table:
    """Seconds a case of each tool's steps, one after the other, by their least times."""
    drawn = Table(title=title, title_justify="left", box=None)
    drawn.caption = "seconds a case; ×: relative to FM-Net"
    for heading in ("", "whole", "×", "further", "×"):
        drawn.add_column(heading, justify="right" if heading else "left")

    def rates(tool: str) -> tuple[float, float]:
        own = [step for step in steps if step.tool == tool]
        whole, start = sum(min(s.whole) for s in own), sum(min(s.few) for s in own)
        return whole / cases, (whole - start) / (cases - few)

    for tool in (FLOOR, OURS, NNUNET, NVIDIA):
        cells = []
        for theirs, ours in zip(rates(tool), rates(OURS), strict=True):
            ratio = f"{theirs / ours:.2f}" if theirs > 0 < ours else "noise"
            cells += [f"{theirs:.3f}", ratio]
        drawn.add_row(tool, *cells)
    return drawn
