"""`fmnet-preprocess phantom`: cohorts that look like BraTS's and are not trivial."""

import json
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from perfect import perfect_mask
from scipy.ndimage import binary_erosion

from common import nifti
from common.case import prepare
from common.discovery import CaseFiles, discover
from common.layouts import BY_NAMES
from common.manifest import Manifest, load_manifest
from common.splits import SPLITS, assign
from common.task import TASKS
from common.validate import load_case
from preprocess import phantom as phantoms
from preprocess.phantom import TUMOUR_FREE, describe, make_cohort

Command = Callable[..., subprocess.CompletedProcess[str]]

SMALL = (48, 56, 48)
ENDINGS = {
    "2021": {"_flair", "_t1", "_t1ce", "_t2", "_seg"},
    "2023": {"-t2f", "-t1n", "-t1c", "-t2w", "-seg"},
}
CASES = 4
SEED = {"2021": 0, "2023": 1}
ENHANCING = {"2021": 4, "2023": 3}


def phantom(
    command: Command,
    directory: Path,
    cases: int,
    *,
    release: str = "2023",
    seed: int = 0,
    size: tuple[int, ...] = SMALL,
) -> Path:
    voxels = ",".join(map(str, size))
    options = ("--cases", cases, "--release", release, "--seed", seed, "--size", voxels)
    done = command("phantom", directory, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def described(directory: Path) -> tuple[Manifest, list[CaseFiles]]:
    manifest = load_manifest(directory / "data_manifest.yaml")
    return manifest, discover(directory, manifest).cases


def label_of(case: CaseFiles) -> NDArray[np.generic]:
    assert case.label is not None
    return nifti.read(case.label).voxels


def flair_of(case: CaseFiles) -> NDArray[np.generic]:
    return nifti.read(case.images["flair"]).voxels


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory, command: Command) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("phantoms")
    return {
        release: phantom(command, root / release, CASES, release=release, seed=seed)
        for release, seed in SEED.items()
    }


@pytest.fixture(params=["2021", "2023"])
def cohort(request: pytest.FixtureRequest, cohorts: dict[str, Path]) -> Path:
    return cohorts[request.param]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    """Eight cases, as large as the demo's."""
    return phantom(command, tmp_path_factory.mktemp("phantoms") / "demo", 8, size=(80, 80, 80))


def test_check_finds_nothing_wrong(cohort: Path, command: Command) -> None:
    done = command("check", cohort, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["usable"] == CASES
    (tumour_free,) = answer["findings"]
    assert (tumour_free["severity"], tumour_free["found"]) == ("warning", "no tumour, only zeros")


def test_names_headers_and_label_values(cohort: Path) -> None:
    release = cohort.name
    _, cases = described(cohort)
    assert len(cases) == CASES
    values = set[int]()
    for case in cases:
        files = sorted((cohort / case.case_id).iterdir())
        suffixes = {path.name.removeprefix(case.case_id) for path in files}
        assert suffixes == {f"{ending}.nii.gz" for ending in ENDINGS[release]}
        for path in files:
            header = nibabel.load(path).header
            assert header.get_data_dtype() == (np.uint8 if path == case.label else np.int16)
            assert header.get_data_shape() == SMALL[::-1]
            assert header.get_xyzt_units()[0] == "mm"
            assert header["qform_code"] == header["sform_code"] == 1
            lps = np.diag([-1.0, -1.0, 1.0, 1.0])
            lps[1, 3] = SMALL[1] - 1
            assert np.array_equal(header.get_best_affine(), lps)
        values |= set(np.unique(label_of(case)).tolist())
    assert values == {0, 1, 2, ENHANCING[release]}


SINCE_2023 = ("-t2f", "-t1n", "-t1c", "-t2w", "-seg")
FILES = {
    "glioma": ("BraTS-PHANTOM-00000-000", SINCE_2023),
    "post-treatment": ("BraTS-GLI-90000-000", SINCE_2023),
    "pediatric": ("BraTS-PED-90000-000", SINCE_2023),
    "metastases": ("BraTS-MET-90000-000", SINCE_2023),
    "meningioma-rt": ("BraTS-MEN-RT-9000-1", ("_t1c", "_gtv")),
}


@pytest.fixture(scope="module")
def of_task(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Three cases of a task."""
    root = tmp_path_factory.mktemp("tasks")
    return cache(lambda name: make_cohort(root / name, cases=3, seed=0, size=SMALL, task=name))


@pytest.mark.parametrize("name", TASKS)
def test_each_task_has_its_files_and_its_labels_come_back(
    name: str, of_task: Callable[[str], Path]
) -> None:
    task, data = TASKS[name], of_task(name)
    manifest, cases = described(data)
    assert manifest.task == task
    first, endings = FILES[name]
    names = sorted(path.name for path in (data / first).iterdir())
    assert names == sorted(f"{first}{ending}.nii.gz" for ending in endings)
    assert len(cases) == 3
    found = set[int]()
    for files in cases:
        loaded = load_case(files, manifest)
        assert loaded.warnings == ()
        assert loaded.label is not None
        values = label_of(files)
        assert np.array_equal(task.from_canonical(loaded.label, loaded.convention), values)
        found |= set(np.unique(values).tolist())
        prepared = prepare(files, manifest)
        assert len(prepared.image) == len(prepared.crop_image) == len(task.modalities)
        assert prepared.label is not None
        assert np.array_equal(perfect_mask(prepared, task), values)
    assert found == task.values_of(loaded.convention)


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Phantoms are made in this process, each image once: here, files and folders are tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantoms, "synthesise", cache(phantoms.synthesise))
        patch.setattr(
            phantoms,
            "map_in_processes",
            lambda work, shared, items, _: [work(shared, item) for item in items],
        )
        yield


@pytest.mark.parametrize(
    ("release", "layout"), [("2012", "brats2015"), ("2015", "brats2015"), ("2020", "brats2021")]
)
def test_a_release_may_be_named_by_its_year(
    release: str, layout: str, quick: None, tmp_path: Path
) -> None:
    data = make_cohort(tmp_path / "d", cases=3, seed=0, size=(32, 32, 32), release=release)
    assert discover(data, load_manifest(data / "data_manifest.yaml")).layouts == {layout: 3}


@pytest.mark.parametrize("release", BY_NAMES)
def test_each_release_is_recognised_and_its_labels_mean_the_same(
    release: str, quick: None, tmp_path: Path
) -> None:
    data = make_cohort(tmp_path / release, cases=3, seed=0, size=(32, 32, 32), release=release)
    manifest = load_manifest(data / "data_manifest.yaml")
    discovery = discover(data, manifest)
    assert discovery.findings == []
    assert discovery.layouts == {release: 3}
    assert discovery.unused == {}
    case_ids = {case_id for name in SPLITS for case_id in getattr(manifest.splits, name)}
    assert {case.case_id for case in discovery.cases} == case_ids
    assert {case.patient for case in discovery.cases} == {PATIENT[release].format(n) for n in "012"}
    for index, files in enumerate(discovery.cases):
        phantom = phantoms.synthesise(0, index, (32, 32, 32), cavity=False)
        loaded = load_case(files, manifest)
        one_label = manifest.task.name == "meningioma-rt"
        expected = np.isin(phantom.label, (1, 3)) if one_label else phantom.label
        assert np.array_equal(loaded.label, expected)
        assert np.array_equal(loaded.images["t1ce"], phantom.image[2])


PATIENT = {
    "brats2023": "BraTS-PHANTOM-0000{}",
    "brats-men-rt": "BraTS-MEN-RT-900{}",
    "ucsf-pdgm": "UCSF-PDGM-900{}",
    "upenn-gbm": "UPENN-GBM-9000{}",
    "brats2021": "BraTS2021_PHANTOM00{}",
    "brats2015": "brats_2013_pat900{}",
    "brats2015-nifti": "brats_2013_pat900{}",
    "bids": "sub-900{}",
    "lumiere": "Patient-90{}",
    "lumiere-native": "Patient-90{}",
    "folders": "PHANTOM-900{}",
    "nnunet": "BraTS2021_9000{}",
    "msd": "BRATS_90{}",
}


def test_cavities_are_dark_on_flair_and_the_images_of_other_tissues_stay(
    of_task: Callable[[str], Path],
) -> None:
    glioma, treated = (described(of_task(task))[1][0] for task in ("glioma", "post-treatment"))
    label, images = label_of(treated), [flair_of(glioma), flair_of(treated)]
    cavity = label == 4
    assert images[1][cavity].mean() < 0.8 * images[1][label == 1].mean()
    assert set(np.unique(label_of(glioma)[label == 4])) == {1}


def test_one_case_is_tumour_free_and_the_others_have_every_label(cohort: Path) -> None:
    manifest, cases = described(cohort)
    found = {case.case_id: len(np.unique(label_of(case))) for case in cases}
    free = [case_id for case_id, values in found.items() if values == 1]
    assert len(free) == 1
    assert all(values == 4 for case_id, values in found.items() if case_id not in free)
    assert free[0] in assign(manifest.splits, {c.case_id: c.patient for c in cases})["train"]


def test_heads_and_tumours_vary_in_size_and_lie_in_the_brain(demo: Path) -> None:
    _, cases = described(demo)
    brains, tumours = [], []
    for case in cases:
        brain, tumour = flair_of(case) > 0, label_of(case) > 0
        assert not np.any(tumour & ~brain)
        brains.append(np.count_nonzero(brain))
        if tumour.any():
            tumours.append(np.count_nonzero(tumour))
    assert max(brains) > 1.2 * min(brains)
    assert max(tumours) > 2 * min(tumours)


def test_the_images_of_a_case_share_their_background_and_differ(cohort: Path) -> None:
    _, cases = described(cohort)
    for case in cases:
        images = [nifti.read(path).voxels for path in case.images.values()]
        brains = [image > 0 for image in images]
        assert all(np.array_equal(brain, brains[0]) for brain in brains)
        correlations = np.corrcoef([image[brains[0]] for image in images])
        assert correlations[~np.eye(4, dtype=bool)].max() < 0.95


def test_splits_are_lists_that_hold_every_case(demo: Path) -> None:
    manifest, cases = described(demo)
    assert manifest.splits.kind == "lists"
    placed = assign(manifest.splits, {case.case_id: case.patient for case in cases})
    everyone = [case_id for split in SPLITS for case_id in placed[split]]
    assert sorted(everyone) == sorted(case.case_id for case in cases)
    assert all(placed.values())
    assert manifest.crop == (64, 64, 64)


@given(cases=st.integers(3, 80), size=st.tuples(*[st.integers(32, 300)] * 3))
def test_every_cohort_has_every_split_and_a_crop_that_fits(
    cases: int, size: tuple[int, int, int]
) -> None:
    case_ids = [f"case-{index}" for index in range(cases)]
    manifest = describe(case_ids, size)
    placed = assign(manifest.splits, {case_id: case_id for case_id in case_ids})
    assert all(placed.values())
    assert sum(map(len, placed.values())) == cases
    assert cases < 4 or f"case-{TUMOUR_FREE}" in placed["train"]
    assert cases < 16 or len(placed["test"]) >= 4
    # Powers of two, which every network of the family can halve.
    assert all(
        c <= side and c in (32, 64, 128) for c, side in zip(manifest.crop, size, strict=True)
    )


def test_a_case_depends_on_seed_index_and_size_alone(
    cohorts: dict[str, Path], tmp_path: Path, command: Command
) -> None:
    again = phantom(command, tmp_path / "again", 3, release="2021", seed=SEED["2021"])
    for here, there in zip(described(again)[1], described(cohorts["2021"])[1], strict=False):
        names = sorted(path.name for path in (again / here.case_id).iterdir())
        for name in names:
            first, second = (root / here.case_id / name for root in (again, cohorts["2021"]))
            assert first.read_bytes() == second.read_bytes()
        assert here.case_id == there.case_id
    of_another_seed = described(cohorts["2023"])[1][0]
    assert not np.array_equal(flair_of(described(again)[1][0]), flair_of(of_another_seed))


def test_a_folder_that_holds_something_is_refused_and_left_alone(
    tmp_path: Path, command: Command
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    done = command("phantom", tmp_path, "--cases", 3, "--size", "32,32,32")
    assert done.returncode == 2
    assert "not empty; name a new folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cases", 2), "at least 3 are needed, one for each split"),
        (("--size", "16,80,80"), "at least 32 voxels a side"),
        (("--size", "80"), "expected D,H,W"),
        (("--task", "gliomas"), "there are glioma, post-treatment"),
        (("--task", "pediatric", "--release", "2021"), "has no task pediatric"),
        (("--release", "2022"), "there are 2012, 2013, "),
    ],
)
def test_what_makes_no_cohort_is_refused(
    tmp_path: Path, options: tuple[object, ...], message: str, command: Command
) -> None:
    done = command("phantom", tmp_path / "new", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_rim_is_two_voxels_thick_at_the_size_of_the_demo(demo: Path) -> None:
    for case in described(demo)[1]:
        label = label_of(case)
        if not label.any():
            continue
        core, necrosis = np.isin(label, (1, 3)), label == 1
        assert not np.any(necrosis & ~binary_erosion(core, iterations=2))
        assert np.count_nonzero(core) > 500
        assert np.count_nonzero(label == 3) > 500


def test_no_threshold_on_flair_finds_the_tumours(demo: Path) -> None:
    """The best threshold for the cohort, and even the best for each case, is at most 0.70."""
    thresholds = np.linspace(-1, 6, 281)
    curves = []
    for case in described(demo)[1]:
        flair, tumour = flair_of(case).astype(np.float64), label_of(case) > 0
        if tumour.any():
            curves.append(_dice_by_threshold(flair, tumour, thresholds))
    assert len(curves) == 7
    best_of_all = np.mean(curves, axis=0).max()
    best_of_each = np.max(curves, axis=1).mean()
    assert 0.3 < best_of_all <= best_of_each  # FLAIR says something about tumours, as it should
    assert best_of_each <= 0.70


def _dice_by_threshold(
    flair: NDArray[np.float64], tumour: NDArray[np.bool_], thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Dice of `z-score above threshold` against the whole tumour, for every threshold."""
    brain = flair > 0
    score = (flair - flair[brain].mean()) / flair[brain].std()
    above = [np.sort(score[mask]) for mask in (brain, brain & tumour)]
    marked, hits = (values.size - np.searchsorted(values, thresholds) for values in above)
    return np.asarray(2 * hits / (marked + np.count_nonzero(tumour)))
