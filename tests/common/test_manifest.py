"""`data_manifest.yaml` as a typed value."""

import time
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.layouts import SESSIONS
from common.manifest import DEFAULT_NAME, Manifest, StackedSection, load_manifest, manifest_path
from common.record import hash_of, parameters
from common.splits import FoldSplits, ListSplits
from common.task import GLIOMA

ROOT = Path(__file__).parents[2]
OWN_TASK = """
task:
  {name: own, modalities: [t1, adc], labels: {lesion: 1}, regions: {lesion: [1]},
   painting: [lesion], conventions: {own: {lesion: 7}}}
"""


def test_the_documented_manifest_says_what_the_defaults_are() -> None:
    assert load_manifest(ROOT / DEFAULT_NAME) == Manifest() == load_manifest()


def test_it_comes_back_from_yaml(tmp_path: Path) -> None:
    manifest = Manifest(
        name="x",
        crop=(64, 96, 96),
        label_convention="brats2023",
        splits=FoldSplits(kind="folds", folds=3, fold=1),
    )
    (tmp_path / "m.yaml").write_text(manifest.to_yaml())
    assert load_manifest(tmp_path / "m.yaml") == manifest


def test_overrides_lie_on_top(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("crop: [64, 64, 64]\nmargin: 4\n")
    manifest = load_manifest(tmp_path / "m.yaml", ["crop=[96,96,96]", "splits.seed=7"])
    assert manifest.crop == (96, 96, 96)
    assert manifest.margin == 4
    assert manifest.splits.seed == 7  # type: ignore[union-attr]
    lists = load_manifest(None, ["splits={kind: lists, train: [a], val: [b], test: [c]}"])
    assert isinstance(lists.splits, ListSplits)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("crip: [64, 64, 64]", "crip: no such key; did you mean crop?"),
        ("crop: [64, 64]", "crop"),
        ("crop: [64, 64, 4]", "crop.2: Input should be greater than or equal to 8, found 4"),
        ("dtype: bfloat16", "dtype"),
        ("schema_version: 2", "schema_version"),
        ("modalities: {adc: []}", "the task glioma has adc, whose file name endings are not known"),
        ("layout: brats2022", "layout: must be auto or one of brats2023"),
        ("layout: bids\nmodalities: {t1: [t1]}", "modalities lists endings of its own"),
        ("task: gliomas", "no task is called 'gliomas'; there are glioma, post-treatment"),
        ("task: meningioma-rt\nlabel_convention: msd", "must be auto or one of brats2024"),
        (OWN_TASK, "the task own has adc, whose file name endings are not known"),
        (OWN_TASK + "modalities: {t1: [t1], adc: [t1]}", "name endings used twice: t1"),
        ("label: [t1]", "name endings used twice: t1"),
        ("stacked: {channels: [flair, t1, t2]}", "channels must name each of flair, t1, t1ce, t2"),
        ("stacked: {channels: [flair, t1, t2, t2]}", "channels must name each of"),
        ("stacked: {labels: [imagesTr]}", "folders of images and of labels: imagesTr"),
        ("patient_pattern: 'BraTS-(.*)'", "no group"),
        ("patient_pattern: '(?P<patient>BraTS'", "no regular expression"),
        (r"patient_pattern: '(?P<patient>a+)+$'", "patient_pattern: could take for ever"),
        (r"patient_pattern: '(?P<patient>(a|a)*)b'", "patient_pattern: could take for ever"),
        (r"patient_pattern: '(?P<patient>(a?){30}a{30})'", "patient_pattern: could take for ever"),
        ("patient_pattern: '(?P<patient>.*.*.*.*x)'", "patient_pattern: could take for ever"),
        (
            "patient_pattern: '(?P<patient>[ab]+[bc]+[cd]+[de]+[ef]+x)'",
            "patient_pattern: could take for ever",
        ),
        (f"patient_pattern: '{'(' * 450}'", "no regular expression"),
        ("splits: {kind: halves}", "splits: expected kind: fractions, folds or lists"),
        ("splits: {kind: fractions, train: 0.5, val: 0.1, test: 0.1}", "must be 1"),
        ("cluster: {walltime: long}", "cluster.walltime"),
        ("cluster: {adapt: [4, 2]}", "least, most"),
        ("cluster: {quueue: short}", "did you mean cluster.queue"),
        ("- crop", "expected `key: value` lines"),
        (
            "label_convention: brats2020",
            "label_convention: must be auto or one of brats2021, brats2023, brats2015, msd",
        ),
        ("splits: {kind: lists, train: [a], val: [a]}", "splits: cases listed twice: a"),
        ("workerss: 1", "workerss: no such key; there are schema_version, name"),
        ("margin: 1\ncrop: [64, 64, 64]\nmargin: 2", "the key 'margin' is there twice"),
        ("splits: {kind: lists, seed: 0}", "splits.seed: no such key"),
    ],
)
def test_what_is_wrong_is_named(text: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_manifest(path)
    assert str(path) in str(caught.value)
    assert found in str(caught.value)
    assert "{'" not in str(caught.value)


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(OWN_TASK + "modalities: {t1: [t1], adc: [adc]}")
    manifest = load_manifest(path)
    assert manifest.task.modalities == manifest.stacked.channels == ("t1", "adc")
    path.write_text(manifest.to_yaml())
    assert load_manifest(path) == manifest


@pytest.mark.parametrize(
    ("text", "modalities"),
    [
        ("modalities: {t1ce: [t1ce], flair: [flair]}", ("flair", "t1ce")),
        ("modalities: {t1ce: [], flair: []}", ("flair", "t1ce")),
        ("modalities: {adc: [adc], t1ce: []}", ("t1ce", "adc")),
        ("task: meningioma-rt\nmodalities: {t2: [t2]}", ("t2",)),
    ],
)
def test_a_task_takes_the_images_that_the_manifest_lists(
    text: str, modalities: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    manifest = load_manifest(path)
    assert manifest.task.modalities == manifest.stacked.channels == modalities
    path.write_text(manifest.to_yaml())
    assert load_manifest(path) == manifest


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such manifest"):
        load_manifest(tmp_path / "nowhere.yaml")


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, here = tmp_path / "data", tmp_path / "here"
    data.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    assert manifest_path(None, data) is None
    (here / DEFAULT_NAME).write_text("")
    assert manifest_path(None, data) == Path(DEFAULT_NAME)
    (data / DEFAULT_NAME).symlink_to("nowhere")  # and not: another one
    assert manifest_path(None, data) == data / DEFAULT_NAME
    assert manifest_path(Path("mine.yaml"), data) == Path("mine.yaml")


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("BraTS-GLI-00000-000", "BraTS-GLI-00000"),
        ("BraTS-GLI-00000-101", "BraTS-GLI-00000"),
        ("BraTS-MET-00012-003", "BraTS-MET-00012"),
        ("BraTS-MEN-RT-0012-1", "BraTS-MEN-RT-0012"),
        ("BraTS2021_00001", "BraTS2021_00001"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("Brats18_CBICA_AOP_1", "Brats18_CBICA_AOP"),
        ("BraTS19_TCIA02_283_1", "BraTS19_TCIA02_283"),
        ("brats_2013_pat0001_1", "brats_2013_pat0001"),
        ("brats_tcia_pat105_0083", "brats_tcia_pat105"),
        ("sub-001_ses-01", "sub-001"),
        ("sub-001_ses-post", "sub-001"),
        ("sub-001", "sub-001"),
        ("UPENN-GBM-00001_21", "UPENN-GBM-00001"),
        ("UCSF-PDGM-0004", "UCSF-PDGM-0004"),
        ("UCSF-PDGM-0429_FU003d", "UCSF-PDGM-0429"),
        ("Patient-001_week-000-1", "Patient-001"),
        ("PatientID_0003_Timepoint_2", "PatientID_0003"),
        ("P07-tp1", "P07"),
        ("P07_pre", "P07"),
        ("TCGA-02-0003_1997.06.08", "TCGA-02-0003"),
        ("P01_2019_01_02", "P01"),
        ("brain_scan_2", "brain_scan_2"),
        ("BRATS_001", "BRATS_001"),
    ],
)
def test_whose_case_it_is(case: str, patient: str) -> None:
    assert Manifest().patient_of(case) == patient


def test_a_pattern_of_ones_own() -> None:
    manifest = Manifest(patient_pattern=r"(?P<patient>\w+)_scan\d")
    assert manifest.patient_of("A12_scan3") == "A12"
    manifest = Manifest(patient_pattern=r"(?P<patient>[A-Z]+-[A-Z]+-\d+)-\d+(?:_(?:pre|post))?")
    assert manifest.patient_of("BR-GLI-12-3_pre") == "BR-GLI-12"


@pytest.mark.parametrize("pattern", [*SESSIONS, r"(?P<patient>[A-Z]+-[A-Z]+-\d+-\d+)-\w+"])
def test_a_pattern_whose_repeats_end_in_one_place_is_allowed(pattern: str) -> None:
    assert Manifest(patient_pattern=pattern).patient_pattern == pattern


def test_the_slowest_pattern_is_at_an_end_within_a_second() -> None:
    manifest = Manifest(patient_pattern="(?P<patient>[a-z]*?[a-z]*(a)*a?a?x)")
    began = time.process_time()
    for case_id in ("a" * 190, *(f"{'a' * 15}{number}" for number in range(1000))):
        assert manifest.patient_of(case_id) == case_id
    assert time.process_time() - began < 1


def test_what_the_arrays_depend_on() -> None:
    base = hash_of(parameters(Manifest()))
    same = [
        Manifest(name="other", store="elsewhere.zarr"),
        Manifest(splits=FoldSplits(kind="folds")),
        Manifest(companions=("mask", "x")),
    ]
    assert {hash_of(parameters(manifest)) for manifest in same} == {base}
    other = [
        Manifest(crop=(96, 128, 128)),
        Manifest(dtype="float32"),
        Manifest(margin=3),
        Manifest(task=GLIOMA.model_copy(update={"by_values": ("brats2023",)})),
        Manifest(label_convention="brats2021"),
        Manifest(stacked=StackedSection(channels=("t1", "flair", "t1ce", "t2"))),
    ]
    assert len({hash_of(parameters(manifest)) for manifest in other} | {base}) == len(other) + 1
