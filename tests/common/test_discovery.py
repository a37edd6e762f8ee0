"""Which files make a case, by every release's names."""

import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folders import too_deep

from common import nifti
from common.discovery import discover
from common.errors import Finding, InputError
from common.geometry import Geometry
from common.manifest import DEFAULT_NAME, Manifest
from common.task import MODALITIES

GRID = Geometry((9, 9, 9), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
CUBE = Geometry((128, 128, 128), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
TENS = Geometry((10, 10, 10), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
NAMES = {
    "2021": ("{}_flair", "{}_t1", "{}_t1ce", "{}_t2", "{}_seg"),
    "2018": ("{}_flair", "{}_t1", "{}_t1gd", "{}_t2", "{}_seg"),
    "2023": ("{}-t2f", "{}-t1n", "{}-t1c", "{}-t2w", "{}-seg"),
    "mixed case": ("{}-T2F", "{}-t1N", "{}-t1C", "{}-t2W", "{}-Seg"),
    "bare": ("t2f", "t1n", "t1c", "t2w", "seg"),
    "bare, older": ("FLAIR", "T1", "T1ce", "T2", "SEG"),
}


def touch(folder: Path, *names: str, suffix: str = ".nii.gz") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}{suffix}").write_bytes(b"not opened here")


def found(root: Path, manifest: Manifest | None = None) -> dict[str, str]:
    """File to what discovery says of it."""
    return {f.file: f.found for f in discover(root, manifest or Manifest()).findings}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".NII.GZ"])
@pytest.mark.parametrize("release", NAMES)
def test_each_releases_names_make_a_case(release: str, suffix: str, tmp_path: Path) -> None:
    case = "BraTS-GLI-00012-001"
    names = [name.format(case) for name in NAMES[release]]
    touch(tmp_path / case, *names, suffix=suffix)
    discovery = discover(tmp_path, Manifest())
    assert discovery.findings == []
    (files,) = discovery.cases
    assert files.case_id == case
    assert files.patient == "BraTS-GLI-00012"
    assert list(files.images) == list(MODALITIES)
    assert [path.name for path in files.images.values()] == [f"{n}{suffix}" for n in names[:4]]
    assert files.label is not None
    assert files.label.name == f"{names[4]}{suffix}"
    is_recent = any(ending in names[0].lower() for ending in ("t2f",))
    assert files.suggested_convention == ("brats2023" if is_recent else "brats2021")


def test_all_releases_at_once_and_a_folder_of_many_cases(tmp_path: Path) -> None:
    for index, release in enumerate(NAMES):
        touch(tmp_path / f"case{index}", *[name.format(f"case{index}") for name in NAMES[release]])
    flat = [name.format(case) for case in ("a", "b") for name in NAMES["2021"]]
    touch(tmp_path / "flat", *flat)
    discovery = discover(tmp_path, Manifest())
    assert discovery.findings == []
    assert sorted(case.case_id for case in discovery.cases) == [
        "a",
        "b",
        *(f"case{index}" for index in range(len(NAMES))),
    ]


@pytest.mark.parametrize("folder", ["BraTS-GLI-00001", "BraTS", "BraTS-GLI-00001-000"])
def test_names_since_2023_are_known_in_any_folder(folder: str, tmp_path: Path) -> None:
    names = [name.format("BraTS-GLI-00001-000") for name in NAMES["2023"]]
    touch(tmp_path / folder, *names)
    (case,) = discover(tmp_path, Manifest()).cases
    assert case.suggested_convention == "brats2023"
    assert case.patient == "BraTS-GLI-00001"


@pytest.mark.parametrize("task", ["post-treatment", "pediatric", "metastases"])
def test_a_task_of_one_convention_takes_the_newer_names(task: str, tmp_path: Path) -> None:
    case = "BraTS-PED-00012-000"
    touch(tmp_path / case, *[name.format(case) for name in NAMES["2023"]])
    (files,) = discover(tmp_path, Manifest.model_validate({"task": task})).cases
    assert (files.patient, files.suggested_convention) == ("BraTS-PED-00012", None)


def test_a_task_of_one_modality(tmp_path: Path) -> None:
    manifest = Manifest.model_validate({"task": "meningioma-rt"})
    touch(tmp_path / "one", "BraTS-MEN-RT-0000-1_t1c", "BraTS-MEN-RT-0000-1_gtv")
    touch(tmp_path / "two", "BraTS-MEN-RT-0001-1_gtv")
    discovery = discover(tmp_path, manifest)
    (files,) = discovery.cases
    assert list(files.images) == ["t1ce"]
    assert files.label is not None
    assert files.patient == "BraTS-MEN-RT-0000"
    (finding,) = discovery.findings
    assert (finding.case, finding.found) == ("BraTS-MEN-RT-0001-1", "t1ce is missing")
    assert "BraTS-MEN-RT-0001-1_t1c.nii.gz" in finding.expected


def test_a_case_needs_no_label(tmp_path: Path) -> None:
    touch(tmp_path / "p", *[name.format("p") for name in NAMES["2023"][:4]])
    (files,) = discover(tmp_path, Manifest()).cases
    assert files.label is None


@pytest.mark.parametrize("name", ["mask", "{}_mask", "Mask"])
def test_a_brain_mask_beside_it_is_not_the_label(name: str, tmp_path: Path) -> None:
    touch(tmp_path / "p", *[n.format("p") for n in (*NAMES["2021"], name)])
    discovery = discover(tmp_path, Manifest())
    assert discovery.findings == []
    assert discovery.cases[0].label == tmp_path / "p" / "p_seg.nii.gz"
    touch(tmp_path / "q", *[n.format("q") for n in (*NAMES["2021"][:4], name)])
    unlabelled = next(c for c in discover(tmp_path, Manifest()).cases if c.case_id == "q")
    assert unlabelled.label is None


def test_a_folder_of_a_mask_alone_is_no_case(tmp_path: Path) -> None:
    touch(tmp_path / "p", "mask")
    discovery = discover(tmp_path, Manifest())
    assert (discovery.cases, discovery.findings) == ([], [])
    assert discovery.unused == {"mask.nii.gz": 1}


def test_a_missing_modality_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "p", "p_flair", "p_t1ce", "p_seg")
    discovery = discover(tmp_path, Manifest())
    assert discovery.cases == []
    (finding,) = discovery.findings
    assert (finding.case, finding.file) == ("p", "p")
    assert finding.found == "t1, t2 are missing"
    assert finding.expected.startswith("p_t1.nii.gz, p_t2.nii.gz")


def test_two_files_for_one_modality_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "p", *[name.format("p") for name in NAMES["2021"]], "p_t1gd")
    discovery = discover(tmp_path, Manifest())
    assert discovery.cases == []
    (finding,) = discovery.findings
    assert "2 candidates for t1ce: p_t1ce.nii.gz, p_t1gd.nii.gz" in finding.found
    assert finding.severity == "error"


def test_two_label_files_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "p", *[name.format("p") for name in NAMES["2021"]])
    touch(tmp_path / "p", "p_seg", suffix=".nii")
    assert "2 candidates for label: p_seg.nii, p_seg.nii.gz" in found(tmp_path)["p"]


def test_the_same_case_in_two_folders_is_taken_from_neither(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        touch(tmp_path / folder / "p", *[name.format("p") for name in NAMES["2021"]])
    discovery = discover(tmp_path, Manifest())
    assert discovery.cases == []
    assert discovery.findings[0].file == "one/p, two/p"
    assert discovery.findings[0].found == "2 folders make this case id"


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".gz", ".dcm", ".hdr", ".img", ".mgz"])
def test_an_image_of_another_kind_is_an_error(suffix: str, tmp_path: Path) -> None:
    touch(tmp_path / "p", *[name.format("p") for name in NAMES["2021"]])
    touch(tmp_path / "p", "p_t1", suffix=suffix)
    (finding,) = discover(tmp_path, Manifest()).findings
    assert finding.file == f"p/p_t1{suffix}"
    assert finding.severity == "error"
    assert ".mha" not in finding.action or suffix == ".mha"


@pytest.mark.parametrize("name", ["survival.csv", "README", "notes.txt", "sheet.xlsx", "x.json"])
def test_tables_are_counted(name: str, tmp_path: Path) -> None:
    touch(tmp_path, name, suffix="")
    discovery = discover(tmp_path, Manifest())
    assert discovery.findings == []
    assert discovery.unused == {"*" + Path(name).suffix if "." in name else name: 1}


@pytest.mark.parametrize("name", ["p_t1.mha", "p_t1.txt", "pointer"])
def test_a_pointer_is_called_one_whatever_its_suffix(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (finding,) = discover(tmp_path, Manifest()).findings
    assert "git-LFS pointer" in finding.found
    assert finding.severity == "error"


def test_an_unknown_ending_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "p", *[name.format("p") for name in NAMES["2021"]])
    for name in ("p_pd", "p_pd_bias", "loose"):
        nifti.write(tmp_path / "p" / f"{name}.nii.gz", np.zeros((9, 9, 9), np.uint8), GRID)
    what = found(tmp_path)
    assert what["p/p_pd.nii.gz"].startswith("name ends in 'pd'")
    assert what["p/p_pd_bias.nii.gz"].startswith("name ends in 'pd_bias'")
    assert what["p/loose.nii.gz"].startswith("name ends in 'loose'")
    pd = Manifest(companions=("mask", "pd", "pd_bias", "loose"))
    assert found(tmp_path, pd) == {}


def test_a_stray_volume_that_is_damaged_says_both(tmp_path: Path) -> None:
    stray = tmp_path / "p_pd.nii.gz"
    nifti.write(stray, np.arange(1000, dtype=np.int16).reshape(10, 10, 10), TENS)
    stray.write_bytes(stray.read_bytes()[:-30])
    (finding,) = discover(tmp_path, Manifest()).findings
    assert finding.found.startswith("damaged: incomplete or truncated stream; also, name ends in")
    assert finding.expected.startswith("a whole NIfTI volume, with an ending under modalities")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_a_stray_volume_is_not_decompressed(suffix: str, tmp_path: Path) -> None:
    """There may be thousands, as predictions beside the cases."""
    stray = tmp_path / f"p_pred{suffix}"
    nifti.write(stray, np.zeros((128, 128, 128), np.uint8), CUBE)
    tracemalloc.start()
    try:
        (finding,) = discover(tmp_path, Manifest()).findings
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert finding.found.startswith("name ends in 'pred'")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_every_truncation_of_a_stray_volume_is_noticed(suffix: str, tmp_path: Path) -> None:
    stray = tmp_path / f"p_pred{suffix}"
    nifti.write(stray, np.arange(1000, dtype=np.int16).reshape(10, 10, 10), TENS)
    content = stray.read_bytes()
    for length in range(0, len(content), len(content) // 60):
        stray.write_bytes(content[:length])
        (finding,) = discover(tmp_path, Manifest()).findings
        assert finding.found.endswith("also, name ends in 'pred', which the manifest does not list")


@pytest.mark.parametrize("change", [lambda b: b, lambda b: b + bytes(64)])
def test_a_stray_volume_of_several_members_or_with_a_tail_is_whole(
    change: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    stray = tmp_path / "p_pred.nii.gz"
    nifti.write(stray, np.arange(1000, dtype=np.int16).reshape(10, 10, 10), TENS)
    content = change(gzip.decompress(stray.read_bytes()))
    stray.write_bytes(gzip.compress(content[:900]) + gzip.compress(content[900:]))
    (finding,) = discover(tmp_path, Manifest()).findings
    assert finding.found.startswith("name ends in 'pred'")


def test_the_decathlons_layout(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr", "BRATS_001", "BRATS_002", "._BRATS_001")
    touch(tmp_path / "labelsTr", "BRATS_001", "._BRATS_001")
    touch(tmp_path / "imagesTs", "BRATS_485")
    (tmp_path / "dataset.json").write_text("{}")
    discovery = discover(tmp_path, Manifest())
    assert discovery.findings == []
    first, second, test = discovery.cases
    assert [case.case_id for case in discovery.cases] == ["BRATS_001", "BRATS_002", "BRATS_485"]
    assert first.images == dict.fromkeys(MODALITIES, tmp_path / "imagesTr" / "BRATS_001.nii.gz")
    assert first.label == tmp_path / "labelsTr" / "BRATS_001.nii.gz"
    assert second.label is test.label is None
    assert all(case.stacked and case.suggested_convention == "msd" for case in discovery.cases)


def test_a_folder_of_4d_images_alone_is_a_cohort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "imagesTs", "BRATS_485")
    (case,) = discover(tmp_path / "imagesTs", Manifest()).cases
    assert case.stacked
    monkeypatch.chdir(tmp_path / "imagesTs")
    assert [case.case_id for case in discover(Path(), Manifest()).cases] == ["BRATS_485"]


def test_the_folders_of_4d_images_are_the_manifests(tmp_path: Path) -> None:
    touch(tmp_path / "scans", "a")
    touch(tmp_path / "truth", "a")
    manifest = Manifest.model_validate({"stacked": {"images": ["scans"], "labels": ["truth"]}})
    (case,) = discover(tmp_path, manifest).cases
    assert case.label == tmp_path / "truth" / "a.nii.gz"
    assert len(discover(tmp_path, Manifest()).findings) == 2


def test_files_of_one_modality_in_such_a_folder_are_what_they_are_called(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr", *[name.format("p") for name in NAMES["2021"]])
    (case,) = discover(tmp_path, Manifest()).cases
    assert (case.case_id, case.stacked) == ("p", False)


def test_a_4d_layout_that_is_not_whole(tmp_path: Path) -> None:
    touch(tmp_path / "labelsTr", "lone")
    touch(tmp_path / "imagesTr", "twice", "mixed")
    touch(tmp_path / "imagesTs", "twice")
    touch(tmp_path, "mixed_flair")
    discovery = discover(tmp_path, Manifest())
    assert discovery.cases == []
    what = {finding.case: finding.found for finding in discovery.findings}
    assert what == {
        "lone": "flair, t1, t1ce, t2 are missing",
        "twice": "2 folders make this case id",
        "mixed": "a 4-D image and flair",
    }


def test_an_ending_that_ends_in_another_is_told_apart(tmp_path: Path) -> None:
    manifest = Manifest(
        modalities={
            "flair": ("flair",),
            "t1": ("t1",),
            "t1ce": ("post_t1",),
            "t2": ("t2",),
        }
    )
    touch(tmp_path / "p", "p_flair", "p_t1", "p_post_t1", "p_t2")
    (files,) = discover(tmp_path, manifest).cases
    assert files.images["t1ce"].name == "p_post_t1.nii.gz"
    assert files.images["t1"].name == "p_t1.nii.gz"


def test_what_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path / "p", *[name.format("p") for name in NAMES["2021"]])
    touch(tmp_path / ".hidden", "x_t1")
    touch(tmp_path / "brats.zarr" / "cases", "zarr", suffix=".json")
    touch(tmp_path, "data_manifest", suffix=".yaml")
    touch(tmp_path, ".DS_Store", suffix="")
    discovery = discover(tmp_path, Manifest())
    assert len(discovery.cases) == 1
    assert discovery.findings == []


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "p", *[name.format("p") for name in NAMES["2021"]])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "p").symlink_to(tmp_path / "elsewhere" / "p")
    assert [case.case_id for case in discover(tmp_path / "data", Manifest()).cases] == ["p"]


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_back_up_is_remarked_on_and_not_followed(target: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    touch(data / "p", *[name.format("p") for name in NAMES["2021"]])
    touch(data / "q", *[name.format("q") for name in NAMES["2021"]])
    (data / "p" / "loop").symlink_to(target)
    discovery = discover(data, Manifest())
    assert [case.case_id for case in discovery.cases] == ["p", "q"]
    (finding,) = discovery.findings
    assert (finding.file, finding.severity) == ("p/loop", "warning")
    assert finding.found == "a link to a folder that it is in"


def test_links_that_lead_into_each_other_end(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        touch(tmp_path / name, *[n.format(name) for n in NAMES["2021"]])
        (tmp_path / name / "link").symlink_to(tmp_path / other)
    notes = [f for f in discover(tmp_path, Manifest()).findings if f.severity == "warning"]
    assert [note.file for note in notes] == ["a/link/link", "b/link/link"]


def test_links_that_fork_are_not_followed_in_every_way(tmp_path: Path) -> None:
    """Two links in each of 40 folders to the next would be a million million ways."""
    touch(tmp_path / "40", *[name.format("p") for name in NAMES["2021"]])
    for number in range(40):
        (tmp_path / str(number)).mkdir()
        for link in "ab":
            (tmp_path / str(number) / link).symlink_to(tmp_path / str(number + 1))
    notes = discover(tmp_path, Manifest()).findings
    assert {note.found for note in notes if note.severity == "warning"} == {
        "a link to a folder that another link leads to"
    }


def test_a_manifest_in_a_subfolder_is_remarked_on(tmp_path: Path) -> None:
    touch(tmp_path / "p", *[name.format("p") for name in NAMES["2021"]])
    for folder in (tmp_path, tmp_path / "p"):
        (folder / DEFAULT_NAME).touch()
    (finding,) = discover(tmp_path, Manifest()).findings
    assert (finding.file, finding.severity) == (f"p/{DEFAULT_NAME}", "warning")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("x" * 5000, "File name too long"),
        ("/a" * 3000, "File name too long"),
        ("dir::x", "no such folder"),
        ("loop", "Too many levels"),
        ("pipe", "a named pipe"),
    ],
    ids=range(5),
)
def test_a_path_that_leads_to_no_folder_is_one_short_line(
    name: str, found: str, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=found) as caught:
        discover(tmp_path / name, Manifest())
    assert len(str(caught.value)) < 300


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "p", *[name.format("p") for name in NAMES["2021"]])
    too_deep(tmp_path / "q")
    discovery = discover(tmp_path, Manifest())
    assert [case.case_id for case in discovery.cases] == ["p"]
    (finding,) = discovery.findings
    assert finding.found == "unreadable folder: File name too long"
    assert finding.file.startswith("q/")
    assert finding.severity == "error"


LATIN_1 = os.fsdecode("Müller".encode("latin-1"))


def test_names_that_are_no_utf_8_are_errors(tmp_path: Path) -> None:
    data = tmp_path / "data"
    touch(data / "p", *[name.format("p") for name in NAMES["2021"]])
    touch(data / LATIN_1, "q_flair")
    touch(data / "r", f"{LATIN_1}_flair")
    discovery = discover(data, Manifest())
    assert [case.case_id for case in discovery.cases] == ["p"]
    files = [finding.file for finding in discovery.findings]
    assert files == [r"M\xfcller", r"r/M\xfcller_flair.nii.gz"]
    assert {finding.found for finding in discovery.findings} == {"a name that is not UTF-8"}
    with pytest.raises(InputError, match=r"M\\xfcller: a name that is not UTF-8"):
        discover(data / LATIN_1, Manifest())


@pytest.mark.parametrize("case_id", ["", "_", "--", " "])
@pytest.mark.parametrize("release", ["2021", "2023"])
def test_a_name_without_a_case_id_is_an_error(release: str, case_id: str, tmp_path: Path) -> None:
    touch(tmp_path / "p", *[name.format("p") for name in NAMES["2021"]])
    touch(tmp_path, *[name.format(case_id) for name in NAMES[release]])
    discovery = discover(tmp_path, Manifest())
    assert [case.case_id for case in discovery.cases] == ["p"]
    (finding,) = discovery.findings
    assert finding.found.startswith("no case id in ")
    assert NAMES[release][0].format(case_id) in finding.found
    assert (finding.case, finding.severity) == ("-", "error")


@pytest.mark.parametrize("case_id", ["a\\b", "a\nb", "a\x1b[2Jb", "a\u202eb", "a::b", "é" * 101])
def test_a_case_id_that_cannot_be_stored_is_an_error(case_id: str, tmp_path: Path) -> None:
    touch(tmp_path / "p", *[name.format("p") for name in NAMES["2021"]])
    touch(tmp_path / "q", *[name.format(case_id) for name in NAMES["2021"]])
    discovery = discover(tmp_path, Manifest())
    assert [case.case_id for case in discovery.cases] == ["p"]
    (finding,) = discovery.findings
    assert (finding.case, finding.severity) == (case_id, "error")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        discover(tmp_path / "nowhere", Manifest())


def test_a_case_in_the_folder_itself_is_named_as_the_folder(tmp_path: Path) -> None:
    touch(tmp_path / "p", *[name.format("p") for name in NAMES["2021"][:2]])
    (finding,) = discover(tmp_path / "p", Manifest()).findings
    assert (finding.file, finding.case) == ("p", "p")


def test_a_file_where_a_folder_is_expected(tmp_path: Path) -> None:
    (tmp_path / "p_flair.nii.gz").touch()
    with pytest.raises(InputError, match=r"a file; .* name the folder that it is in"):
        discover(tmp_path / "p_flair.nii.gz", Manifest())


def images_of(root: Path, manifest: Manifest | None = None) -> dict[str, dict[str, str]]:
    """Case id to modality to the file below the root."""
    cases = discover(root, manifest or Manifest()).cases
    return {c.case_id: {m: str(p.relative_to(root)) for m, p in c.images.items()} for c in cases}


def label_of(root: Path, manifest: Manifest | None = None) -> dict[str, str | None]:
    """Case id to the label's file below the root."""
    cases = discover(root, manifest or Manifest()).cases
    return {c.case_id: str(c.label.relative_to(root)) if c.label else None for c in cases}


FOUR = ("flair", "t1", "t1ce", "t2")


@pytest.mark.parametrize(
    "label", ["masks/p_seg", "labels/p", "truth/p_label", "p/W39_1998.09.19_Segm", "p/p-tumorMask"]
)
def test_a_label_of_any_name_or_place_is_joined_to_its_case(label: str, tmp_path: Path) -> None:
    touch(tmp_path / "p", *[f"p_{m}" for m in FOUR])
    touch(tmp_path / "q", *[f"q_{m}" for m in (*FOUR, "seg")])
    touch((tmp_path / label).parent, Path(label).name)
    assert label_of(tmp_path) == {"p": f"{label}.nii.gz", "q": "q/q_seg.nii.gz"}
    said = [f for f in discover(tmp_path, Manifest()).findings if f.case == "p"]
    assert [f.severity for f in said] == ([] if label == "masks/p_seg" else ["warning"])


@pytest.mark.parametrize(
    "name",
    [
        *("p_pred", "p_seg_pred", "p_brain_mask2", "notes_of_p", "p_T1_masked", "p_lesion_prob"),
        *("p_seg_uncertainty", "p_gm_mask2"),
    ],
)
def test_other_volumes_are_no_labels(name: str, tmp_path: Path) -> None:
    touch(tmp_path / "p", *[f"p_{m}" for m in FOUR], name)
    assert label_of(tmp_path) == {"p": None}
    (finding,) = discover(tmp_path, Manifest()).findings
    assert (finding.file, finding.severity) == (f"p/{name}.nii.gz", "error")


def test_two_labels_in_two_folders_are_refused_with_both_names(tmp_path: Path) -> None:
    touch(tmp_path / "p", *[f"p_{m}" for m in (*FOUR, "seg")])
    touch(tmp_path / "other", "p_seg")
    finding, _ = discover(tmp_path, Manifest()).findings
    assert "other/p_seg.nii.gz, p/p_seg.nii.gz" in finding.found
    assert (finding.case, finding.severity) == ("p", "error")


def test_labels_where_predictions_may_be_are_remarked_on(tmp_path: Path) -> None:
    touch(tmp_path / "p", *[f"p_{m}" for m in FOUR])
    touch(tmp_path / "out", "p_seg")
    assert label_of(tmp_path) == {"p": "out/p_seg.nii.gz"}
    (finding,) = discover(tmp_path, Manifest()).findings
    assert (finding.file, finding.severity) == ("(the cohort)", "warning")
    assert "out/p_seg.nii.gz" in finding.found


@pytest.mark.parametrize(
    "folder", ["predictions", "seg_results", "derivatives/nnunet", "HD-GLIO-AUTO", "autoseg"]
)
def test_predictions_are_the_label_only_without_another(folder: str, tmp_path: Path) -> None:
    for case in ("sub-1", "sub-2"):
        bids(tmp_path, case, *BIDS)
        touch(tmp_path / folder / case, f"{case}_dseg")
    touch(tmp_path / "derivatives" / "masks" / "sub-2", "sub-2_dseg")
    assert label_of(tmp_path) == {
        "sub-1": f"{folder}/sub-1/sub-1_dseg.nii.gz",
        "sub-2": "derivatives/masks/sub-2/sub-2_dseg.nii.gz",
    }
    said = {f.case: (f.file, f.severity) for f in discover(tmp_path, Manifest()).findings}
    assert said == {
        case: (f"{folder}/{case}/{case}_dseg.nii.gz", "warning") for case in ("sub-1", "sub-2")
    }


def test_data_in_a_folder_of_results_are_no_predictions(tmp_path: Path) -> None:
    touch(tmp_path / "nnunet_results" / "p", *[f"p_{m}" for m in (*FOUR, "seg")])
    assert discover(tmp_path, Manifest()).findings == []


@pytest.mark.parametrize("name", ["p_nnunet_seg", "p_wmh_seg", "p_other_seg"])
def test_a_second_label_beside_a_labelled_case_is_not_used(name: str, tmp_path: Path) -> None:
    touch(tmp_path / "p", *[f"p_{m}" for m in (*FOUR, "seg")], name)
    assert label_of(tmp_path) == {"p": "p/p_seg.nii.gz"}
    (finding,) = discover(tmp_path, Manifest()).findings
    assert (finding.file, finding.case) == (f"p/{name}.nii.gz", "p")
    assert finding.severity == "warning"


@pytest.mark.parametrize("name", ["p_fast_seg", "p_wm_seg", "p_ventricles_seg", "p_auto_seg"])
def test_labels_called_otherwise_are_not_the_tumours(name: str, tmp_path: Path) -> None:
    touch(tmp_path / "p", *[f"p_{m}" for m in FOUR], name)
    assert label_of(tmp_path) == {"p": None}
    (finding,) = discover(tmp_path, Manifest()).findings
    assert (finding.file, finding.severity) == (f"p/{name}.nii.gz", "warning")


def test_a_folder_for_each_modality(tmp_path: Path) -> None:
    for folder in ("FLAIR", "t1", "t1gd", "T2", "seg"):
        touch(tmp_path / folder, "A1", "A2")
    discovery = discover(tmp_path, Manifest())
    assert (discovery.layouts, discovery.findings) == ({"folders": 2}, [])
    assert label_of(tmp_path) == {"A1": "seg/A1.nii.gz", "A2": "seg/A2.nii.gz"}
    assert images_of(tmp_path)["A2"]["t1ce"] == "t1gd/A2.nii.gz"


def test_folders_of_modalities_whose_files_say_so_too(tmp_path: Path) -> None:
    for modality in (*FOUR, "seg"):
        touch(tmp_path / modality, f"A1_{modality}")
    assert label_of(tmp_path) == {"A1": "seg/A1_seg.nii.gz"}


def test_grades_with_the_same_numbers_are_different_cases(tmp_path: Path) -> None:
    """As in BraTS 2012; its files are .mha, which have to be converted."""
    for grade in ("HG", "LG"):
        for name in ("MR_Flair", "MR_T1", "MR_T1c", "MR_T2"):
            stem = f"VSD.Brain.XX.O.{name}"
            touch(tmp_path / grade / "0001" / stem, f"{stem}.684")
        touch(tmp_path / grade / "0001" / "VSD.Brain_3more.XX.XX.OT", "VSD.Brain_3more.XX.XX.OT.68")
        touch(tmp_path / grade / "0002", "VSD.Brain.XX.O.MR_T1.7", suffix=".mha")
    discovery = discover(tmp_path, Manifest())
    assert [case.case_id for case in discovery.cases] == ["HG_0001", "LG_0001"]
    assert all(case.label and case.suggested_convention == "brats2015" for case in discovery.cases)
    (finding,) = discovery.findings
    assert finding.found == "file of type '.mha' (and 1 more)"


def test_two_masks_of_unknown_names_are_the_cases_error(tmp_path: Path) -> None:
    touch(tmp_path / "p", *[f"p_{m}" for m in FOUR], "first_tumor", "second_tumor")
    discovery = discover(tmp_path, Manifest())
    assert [case.label for case in discovery.cases] == [None]
    (finding,) = discovery.findings
    assert (finding.case, finding.severity) == ("p", "error")
    assert "first_tumor.nii.gz and second_tumor.nii.gz" in finding.found


def test_a_cohort_whose_labels_are_called_masks(tmp_path: Path) -> None:
    for case in ("p", "q"):
        touch(tmp_path / case, *[f"{case}_{m}" for m in (*FOUR, "mask")])
    discovery = discover(tmp_path, Manifest())
    assert discovery.unused == {"*_mask.nii.gz": 2}
    (finding,) = discovery.findings
    assert finding.found.startswith("labels in 0 of 2 cases; 2 file(s)")
    assert "label: [mask]" in finding.action
    assert label_of(tmp_path, Manifest(label=("mask",)))["q"] == "q/q_mask.nii.gz"


def test_labels_that_are_not_asked_for_are_no_obstacle(tmp_path: Path) -> None:
    touch(tmp_path / "p", *[f"p_{m}" for m in (*FOUR, "seg")], "p_labels")
    touch(tmp_path / "other", "p_seg")
    discovery = discover(tmp_path, Manifest(), labels=False)
    assert [case.label for case in discovery.cases] == [None]
    assert discovery.findings == []


@pytest.mark.parametrize(
    "listed", [{"flair": ["flair"], "t1ce": ["t1ce"]}, {"t1ce": [], "flair": []}]
)
def test_cases_of_fewer_images(listed: dict[str, list[str]], tmp_path: Path) -> None:
    touch(tmp_path / "p", "p_flair", "p_t1ce", "p_seg")
    touch(tmp_path / "q", *[f"q_{m}" for m in FOUR])
    manifest = Manifest.model_validate({"modalities": listed})
    assert images_of(tmp_path, manifest) == {
        case: {m: f"{case}/{case}_{m}.nii.gz" for m in ("flair", "t1ce")} for case in ("p", "q")
    }
    assert list(images_of(tmp_path, Manifest().with_modalities(("t1ce",)))["p"]) == ["t1ce"]
    discovery = discover(tmp_path, manifest)
    assert (discovery.findings, discovery.unused) == ([], {"*_t1.nii.gz": 1, "*_t2.nii.gz": 1})


def test_folders_that_are_called_as_files_are(tmp_path: Path) -> None:
    """As some copies of BraTS 2021 have them."""
    for modality in (*FOUR, "seg"):
        touch(tmp_path / "p" / f"p_{modality}.nii", f"00000057_brain_{modality}", suffix=".nii")
    assert images_of(tmp_path)["p"]["t1"] == "p/p_t1.nii/00000057_brain_t1.nii"
    assert label_of(tmp_path) == {"p": "p/p_seg.nii/00000057_brain_seg.nii"}
    touch(tmp_path / "p" / "p_t1.nii", "second", suffix=".nii")
    assert "2 candidates for t1" in found(tmp_path)["p/p_flair.nii"]


BIDS = ("FLAIR", "T1w", "ce-gd_T1w", "T2w")


def bids(root: Path, case: str, *names: str) -> None:
    touch(root / case.replace("_", "/") / "anat", *[f"{case}_{name}" for name in names])


@pytest.mark.parametrize(
    "images",
    [
        BIDS,
        [f"space-T1w_desc-preproc_{name}" for name in ("FLAIR", "T1w", "T2w")]
        + ["ce-gadolinium_space-T1w_desc-preproc_T1w"],
        ["FLAIR", "acq-mprage_T1w", "acq-post_T1w", "T2w"],
        ["FLAIR", "run-1_T1w", "ce-T1w", "T2w"],
    ],
)
@pytest.mark.parametrize("case", ["sub-001", "sub-01_ses-pre"])
def test_bids(case: str, images: list[str], tmp_path: Path) -> None:
    bids(tmp_path, case, *images, "dwi", "PD")
    bids(tmp_path / "derivatives" / "masks", case, "space-T1w_label-lesion_dseg")
    bids(tmp_path / "derivatives" / "masks", case, "desc-brain_mask", "desc-aseg_dseg")
    (files,) = discover(tmp_path, Manifest()).cases
    assert (files.case_id, files.patient, files.layout) == (
        case,
        case.split("_", maxsplit=1)[0],
        "bids",
    )
    assert files.suggested_convention is None
    contrast = next(name for name in images if name.startswith("ce-") or "post_" in name)
    assert files.images["t1ce"].name == f"{case}_{contrast}.nii.gz"
    assert files.label is not None
    assert files.label.name == f"{case}_space-T1w_label-lesion_dseg.nii.gz"
    assert discover(tmp_path, Manifest()).findings == []


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("acq-postop_T1w", "t1"),
        ("acq-center_T1w", "t1"),
        ("acq-space_T1w", "t1"),
        ("acq-precontrast_T1w", "t1"),
        ("ce-none_T1w", "t1"),
        ("acq-mpragegd_T1w", "t1ce"),
        ("acq-gdmprage_run-1_T1w", "t1ce"),
        ("rec-gd_T1w", "t1ce"),
        ("acq-mprage_ce-gadovist_T1w", "t1ce"),
    ],
)
def test_bids_names_of_contrast_are_whole_words(name: str, modality: str, tmp_path: Path) -> None:
    bids(tmp_path, "sub-1", "FLAIR", "T2w", name, "T1w" if modality == "t1ce" else "ce-gd_T1w")
    assert images_of(tmp_path)["sub-1"][modality] == f"sub-1/anat/sub-1_{name}.nii.gz"


def test_bids_with_two_runs_or_two_copies_asks(tmp_path: Path) -> None:
    bids(tmp_path, "sub-1", *BIDS, "run-2_T2w")
    bids(tmp_path, "sub-2", *BIDS)
    bids(tmp_path / "derivatives" / "registered", "sub-2", *BIDS)
    what = {f.case: f.found for f in discover(tmp_path, Manifest()).findings}
    assert what["sub-1"].startswith("2 candidates for t2")
    assert what["sub-2"] == "2 folders make this case id"


def test_a_label_without_the_session_belongs_to_the_only_one(tmp_path: Path) -> None:
    for case in ("sub-1_ses-1", "sub-2_ses-1", "sub-2_ses-2"):
        bids(tmp_path, case, *BIDS)
    for subject in ("sub-1", "sub-2"):
        touch(tmp_path / "derivatives" / "masks" / subject, f"{subject}_dseg")
    assert [*label_of(tmp_path).values()] == [
        "derivatives/masks/sub-1/sub-1_dseg.nii.gz",
        None,
        None,
    ]
    what = {f.case: f.severity for f in discover(tmp_path, Manifest()).findings}
    assert what == {"sub-1_ses-1": "warning", "sub-2": "error"}


def test_releases_names_with_bids_ids_are_no_bids(tmp_path: Path) -> None:
    touch(tmp_path / "sub-1", "sub-1_FLAIR", "sub-1_T1", "sub-1_T1GD", "sub-1_T2")
    assert discover(tmp_path, Manifest()).layouts == {"upenn-gbm": 1}


def test_lumiere_takes_the_registered_images_where_they_are(tmp_path: Path) -> None:
    for week in ("week-000-1", "week-044"):
        touch(tmp_path / "Patient-001" / week, "CT1", "T1", "T2", "FLAIR")
    touch(tmp_path / "Patient-001" / "week-000-1", "seg")
    atlas = tmp_path / "Patient-001" / "week-044" / "DeepBraTumIA-segmentation" / "atlas"
    touch(atlas / "skull_strip", *[f"{m}_skull_strip" for m in ("ct1", "t1", "t2", "flair")])
    touch(atlas / "skull_strip", "brain_mask")
    touch(atlas / "segmentation", "seg_mask")
    touch(atlas.parents[1] / "HD-GLIO-AUTO-segmentation" / "registered", "segmentation")
    discovery = discover(tmp_path, Manifest())
    assert discovery.findings == []
    assert {case.case_id: case.layout for case in discovery.cases} == {
        "Patient-001_week-000-1": "lumiere-native",
        "Patient-001_week-044": "lumiere",
    }
    native, registered = discovery.cases
    assert native.label == tmp_path / "Patient-001" / "week-000-1" / "seg.nii.gz"
    assert (native.suggested_convention, native.states_convention) == (
        None,
        False,
    )  # whoever made this label
    assert registered.label == atlas / "segmentation" / "seg_mask.nii.gz"
    assert registered.suggested_convention == "deepbratumia"
    assert registered.states_convention
    assert {case.patient for case in discovery.cases} == {"Patient-001"}


def test_other_images_of_ucsf_and_upenn_are_counted(tmp_path: Path) -> None:
    ucsf = ("FLAIR", "T1", "T1c", "T2", "tumor_segmentation")
    more = ("T1_bias", "ADC", "DTI_eddy_FA", "brain_segmentation", "brain_parenchyma_segmentation")
    touch(tmp_path / "UCSF-PDGM-0004_nifti", *[f"UCSF-PDGM-0004_{n}" for n in (*ucsf, *more)])
    case = "UPENN-GBM-00001_11"
    touch(tmp_path / "images_structural" / case, *[f"{case}_{n}" for n in ("FLAIR", "T1", "T1GD")])
    touch(tmp_path / "images_structural" / case, f"{case}_T2")
    touch(tmp_path / "images_segm", f"{case}_segm")
    touch(tmp_path / "automated_segm", f"{case}_automated_approx_segm")
    discovery = discover(tmp_path, Manifest())
    assert discovery.findings == []
    assert discovery.layouts == {"ucsf-pdgm": 1, "upenn-gbm": 1}
    assert discovery.unused.total() == len(more) + 1
    assert label_of(tmp_path)[case] == f"images_segm/{case}_segm.nii.gz"
    automated = Manifest(label=("automated_approx_segm",))
    assert label_of(tmp_path, automated)[case] is not None


CHANNELS = {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"}


def nnunet(root: Path, dataset: object, channels: int = 4) -> None:
    touch(root / "imagesTr", *[f"X_01_{number:04d}" for number in range(channels)])
    touch(root / "labelsTr", "X_01")
    (root / "dataset.json").write_text(json.dumps(dataset))


@pytest.mark.parametrize(
    ("labels", "convention"),
    [
        ({"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "ET": 3}, "msd"),
        ({"background": 0, "edema": 1, "necrosis": 2, "enhancing_tumor": 3}, "msd"),
        ({"background": 0, "NCR": 1, "ED": 2, "ET": 3}, "brats2023"),
        ({"0": "background", "1": "NCR", "2": "edema", "4": "enhancing tumor"}, "brats2021"),
        (
            {"1": "NCR", "2": "peritumoral edema", "3": "non-enhancing core", "4": "Enhancing"},
            "brats2015",
        ),
        (
            {
                "Non-enhancing tumor core": 1,
                "Surrounding non-enhancing FLAIR hyperintensity": 2,
                "Enhancing tumor core": 3,
            },
            "brats2023",
        ),
        ({"enhancing": 1, "non contrast-enhancing": 2, "edema": 3}, "deepbratumia"),
        ({"background": 0, "edema": 2}, None),
        ({"background": 0, "label 1": 1, "label 2": 2}, None),
        ({}, None),
    ],
)
def test_nnunets_layout_and_what_its_dataset_says(
    labels: dict[str, object], convention: str | None, tmp_path: Path
) -> None:
    names = {"0": "T1", "1": "T1-Gd", "2": "ADC", "3": "T2w", "4": "Flair"}
    nnunet(tmp_path, {"channel_names": names, "labels": labels}, 5)
    discovery = discover(tmp_path, Manifest())
    assert discovery.findings == []
    (files,) = discovery.cases
    assert files.layout == "nnunet"
    numbers = {m: path.name[-11:-7] for m, path in files.images.items()}
    assert numbers == {"flair": "0004", "t1": "0000", "t1ce": "0001", "t2": "0003"}
    assert files.label == tmp_path / "labelsTr" / "X_01.nii.gz"
    assert (files.suggested_convention, files.states_convention) == (
        convention,
        convention is not None,
    )
    assert discovery.unused == {"*_0002.nii.gz": 1}


def test_labels_of_another_task_are_not_read(tmp_path: Path) -> None:
    names = {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"}
    labels = {"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}
    nnunet(tmp_path, {"channel_names": names, "labels": labels})
    assert label_of(tmp_path) == {"X_01": None}
    (finding,) = discover(tmp_path, Manifest()).findings
    assert (finding.file, finding.severity) == ("dataset.json", "error")
    treated = Manifest.model_validate({"task": "post-treatment"})
    assert label_of(tmp_path, treated)["X_01"] == "labelsTr/X_01.nii.gz"
    assert label_of(tmp_path, Manifest(label_convention="brats2023"))["X_01"] is not None


def test_two_names_of_one_label_are_no_convention(tmp_path: Path) -> None:
    labels = {"contrast-enhancing": 1, "necrosis": 2, "non contrast-enhancing": 3}
    nnunet(tmp_path, {"channel_names": CHANNELS, "labels": labels})
    assert label_of(tmp_path) == {"X_01": None}


def test_a_dataset_is_read_for_labels_whatever_finds_the_images(tmp_path: Path) -> None:
    labels = {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}
    nnunet(tmp_path, {"channel_names": CHANNELS, "labels": labels})
    listed = {"t1": ["0000"], "t1ce": ["0001"], "t2": ["0002"], "flair": ["0003"]}
    (files,) = discover(tmp_path, Manifest.model_validate({"modalities": listed})).cases
    assert (files.suggested_convention, files.states_convention) == ("msd", True)


@pytest.mark.parametrize("other", ["X_01", "X"])
def test_labels_of_another_dataset_are_not_joined(other: str, tmp_path: Path) -> None:
    touch(tmp_path / "one" / "imagesTr", *[f"X_01_{number:04d}" for number in range(4)])
    (tmp_path / "one" / "dataset.json").write_text(json.dumps({"channel_names": CHANNELS}))
    touch(tmp_path / "two" / "labelsTr", other)
    assert label_of(tmp_path) == {"X_01": None}
    (finding,) = discover(tmp_path, Manifest()).findings
    assert finding.file == f"two/labelsTr/{other}.nii.gz"
    assert (finding.case, finding.severity) == ("X_01", "warning")


@pytest.mark.parametrize("dataset", ["", "{", "[]", '{"channel_names": {"0": "T1"}}'])
def test_channels_without_names_are_asked_for(dataset: str, tmp_path: Path) -> None:
    nnunet(tmp_path, {})
    (tmp_path / "dataset.json").write_text(dataset)
    finding, *others = discover(tmp_path, Manifest()).findings
    assert (finding.case, finding.severity) == ("X_01", "error")
    assert "dataset.json" in finding.expected
    unusable = [] if "channel_names" in dataset else ["dataset.json"]
    assert [other.file for other in others if other.severity == "error"] == unusable
    listed = {"t1": ["0000"], "t1ce": ["0001"], "t2": ["0002"], "flair": ["0003"]}
    manifest = Manifest.model_validate({"modalities": listed})
    assert label_of(tmp_path, manifest) == {"X_01": "labelsTr/X_01.nii.gz"}


def test_channels_whose_names_are_not_understood_are_named(tmp_path: Path) -> None:
    names = {"0": "T1 MRI", "1": "T1 contrast enhanced", "2": "T2-weighted", "3": "Dark fluid"}
    nnunet(tmp_path, {"channel_names": names})
    (finding,) = discover(tmp_path, Manifest()).findings
    assert (finding.case, finding.found) == ("X_01", "flair is missing")
    assert "_0003 ('Dark fluid')" in finding.expected
    assert "[]" not in finding.action
    nnunet(tmp_path, {"channel_names": names | {"3": "FLAIR image"}})
    assert discover(tmp_path, Manifest()).layouts == {"nnunet": 1}


def test_channel_names_that_say_nothing_do_not_contradict(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr", "BRATS_001")
    channels = {str(n): f"MR{n}" for n in range(4)}
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": channels}))
    assert discover(tmp_path, Manifest()).layouts == {"msd": 1}


def test_4d_files_with_four_digits_are_no_channels(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr", "BRATS_0001", "BRATS_0002")
    assert discover(tmp_path, Manifest()).layouts == {"msd": 2}


def test_a_dataset_with_other_channels_than_the_manifest(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr", "BRATS_001")
    channels = {"0": "T1w", "1": "t1gd", "2": "T2w", "3": "FLAIR"}
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": channels}))
    (finding,) = discover(tmp_path, Manifest()).findings
    assert (finding.case, finding.severity) == ("BRATS_001", "error")
    order = {"stacked": {"channels": ["t1", "t1ce", "t2", "flair"]}}
    assert len(discover(tmp_path, Manifest.model_validate(order)).cases) == 1


PATIENT_EACH = r"(?P<patient>.+)"


def doubts(root: Path, ids: list[str], pattern: str = "auto") -> list[Finding]:
    """Findings about cases with these ids."""
    for case in ids:
        touch(root / case, *[f"{case}_{m}" for m in FOUR])
    return discover(root, Manifest(patient_pattern=pattern)).findings


@pytest.mark.parametrize(
    "ids",
    [
        ["P01_a", "P01_b", "P02_a"],
        ["P01a", "P01b"],
        ["001", "001b"],
        ["12-1", "12-2"],
        ["P01V1", "P01V2"],
        ["P01T0", "P01T1"],
        ["P01M0", "P01M6"],
        ["ses1_P01", "ses2_P01"],
        ["P01_s1_r1", "P01_s2_r1"],
        ["BraTS2021_00001_1", "BraTS2021_00001_2"],
        ["site1_scan_001", "site1_scan_002"],
        ["smith_20190102", "smith_20200304"],
    ],
)
def test_ids_that_may_be_sessions_ask_for_a_pattern_that_fits(
    ids: list[str], tmp_path: Path
) -> None:
    (finding,) = doubts(tmp_path, ids)
    assert (finding.file, finding.severity) == ("(the cohort)", "warning")
    advised = finding.action.split("'")[1]
    manifest = Manifest(patient_pattern=advised)
    assert len({manifest.patient_of(case_id) for case_id in ids[:2]}) == 1
    assert doubts(tmp_path, ids, PATIENT_EACH) == []


@pytest.mark.parametrize(
    "ids",
    [
        [f"BraTS20_Training_{n:03d}" for n in range(1, 4)],
        [f"BraTS2021_{n:05d}" for n in range(3)],
        [f"FeTS2022_{n:05d}" for n in range(3)],
        [f"UCSF-PDGM-{n:04d}" for n in range(4, 7)],
        ["TCGA-02-0003", "TCGA-02-0006"],
        ["sub-1_ses-1", "sub-1_ses-2"],
        ["case_1", "case_2"],
        [f"study7_{n:03d}" for n in range(21)],
    ],
)
def test_ids_of_patients_raise_no_doubt(ids: list[str], tmp_path: Path) -> None:
    assert doubts(tmp_path, ids) == []


@pytest.mark.parametrize(
    "sessions",
    [("01-02-2020", "20190101"), ("2019-01", "2020-03-04"), ("ses1", "ses2"), ("V1", "V2")],
)
@pytest.mark.parametrize("name", ["{}", "{session}_{}"])
def test_folders_of_sessions_tell_the_patient(
    name: str, sessions: tuple[str, str], tmp_path: Path
) -> None:
    for patient in ("P01", "P02"):
        for session in sessions:
            names = [name.format(m, session=session) for m in (*FOUR, "seg")]
            touch(tmp_path / patient / session, *names)
    cases = discover(tmp_path, Manifest()).cases
    assert [c.case_id for c in cases] == [f"{p}_{s}" for p in ("P01", "P02") for s in sessions]
    assert all(case.label for case in cases)
    if sessions[0] != "V1":  # which asks for a pattern
        assert {case.patient for case in cases} == {"P01", "P02"}


def test_a_pattern_that_does_not_fit_all_ids_is_remarked_on(tmp_path: Path) -> None:
    (finding,) = doubts(tmp_path, ["P01_a", "P01_b", "P02a"], r"(?P<patient>\w+)[-_]\w")
    assert finding.severity == "warning"
    assert "fits 2 of 3 case ids, not P02a" in finding.found


def test_a_cohort_of_one_patient_is_remarked_on(tmp_path: Path) -> None:
    (finding,) = doubts(tmp_path, [f"p7_scan_{n}" for n in range(4)])
    assert "4 of 4 cases are taken for one patient, p7" in finding.found


def test_a_layout_that_the_manifest_names_is_the_only_one(tmp_path: Path) -> None:
    touch(tmp_path / "p", *[f"p_{m}" for m in FOUR])
    bids(tmp_path, "sub-1", *BIDS)
    assert discover(tmp_path, Manifest()).layouts == {"brats2021": 1, "bids": 1}
    assert discover(tmp_path, Manifest()).layout_line == "layout: brats2021 (1), bids (1)"
    assert discover(tmp_path, Manifest(layout="bids")).layouts == {"bids": 1}
