"""What the values of a label file mean: by task, case id, file names, values and anatomy."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from common import nifti
from common.discovery import discover
from common.errors import Finding, InputError
from common.labels import UNLIKE_ANATOMY
from common.manifest import Manifest
from common.record import hash_of, parameters
from common.task import GLIOMA, TASKS
from common.validate import LoadedCase, load_case

Files = dict[str, NDArray[np.generic]]
Write = Callable[..., Path]
Values = Mapping[int, int]
"""Tissue of a head to its value in a file; other tissues are background there."""

CORE, OEDEMA, ENHANCING, CAVITY = 1, 2, 3, 4
V2021 = {CORE: 1, OEDEMA: 2, ENHANCING: 4}
V2023 = {CORE: 1, OEDEMA: 2, ENHANCING: 3}
TREATED = {CORE: 1, OEDEMA: 2, CAVITY: 4}
V2015 = {CORE: 3, OEDEMA: 2, ENHANCING: 4}
PEDIATRIC = {ENHANCING: 1, CORE: 2, CAVITY: 3, OEDEMA: 4}
LOW = {CORE: 1, OEDEMA: 2}
ENDINGS_2023 = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w", "seg": "seg"}


def tissues() -> NDArray[np.uint8]:
    """A head's tumour: a core in a shell of enhancing tumour in oedema, and a cavity beside it."""
    z, y, x = np.ogrid[:32, :32, :32]
    radius = np.sqrt((z - 16) ** 2 + (y - 12) ** 2 + (x - 17) ** 2)
    tissue = np.select([radius < 4, radius < 6, radius < 9], [CORE, ENHANCING, OEDEMA], 0)
    tissue[14:19, 22:28, 14:20] = CAVITY
    return tissue.astype(np.uint8)


def head(values: Values) -> Files:
    """The files of a head with these label values, by 2021's endings."""
    generator, tissue = np.random.default_rng(0), tissues()
    z, y, x = np.ogrid[:32, :32, :32]
    brain = (z - 16) ** 2 + (y - 16) ** 2 + (x - 16) ** 2 < 15**2
    change = {
        "flair": {OEDEMA: 300, ENHANCING: 200, CAVITY: -300},
        "t1": {CORE: -120, OEDEMA: -60, CAVITY: -250},
        "t1ce": {CORE: -120, OEDEMA: -60, ENHANCING: 400, CAVITY: -250},
        "t2": {OEDEMA: 300, CAVITY: 400},
    }
    files: Files = {}
    for name, changes in change.items():
        image = 500 + generator.normal(0, 80, tissue.shape)
        for kind, by in changes.items():
            image += by * (tissue == kind)
        files[name] = (image * brain).astype(np.int16)
    label = sum((tissue == kind) * value for kind, value in values.items())
    return files | {"seg": np.asarray(label, np.uint8)}


def loaded(folder: Path, *, names: str | None = "", **settings: Any) -> LoadedCase:
    """The case in a folder; `names` in place of what its file names suggest."""
    manifest = Manifest(**settings)
    (case,) = discover(folder, manifest).cases
    return load_case(case if names == "" else replace(case, suggested_convention=names), manifest)


def refused(folder: Path, **settings: Any) -> tuple[Finding, ...]:
    with pytest.raises(InputError) as caught:
        loaded(folder, **settings)
    return caught.value.findings


def with_enhancing(files: Files, value: float, dtype: type[np.generic] = np.uint8) -> Files:
    return files | {"seg": np.where(files["seg"] == 4, value, files["seg"]).astype(dtype)}


def written(write: Write, values: Values, names: str, case_id: str = "case") -> Path:
    """A head's folder, with the file names of 2021 or 2023."""
    files = head(values)
    if names == "2023":
        files = {ENDINGS_2023[name]: voxels for name, voxels in files.items()}
    return write(files, case_id, joint="-" if names == "2023" else "_")


def canonical(of_tissue: Mapping[int, str], task: str = "glioma") -> NDArray[np.uint8]:
    """The labels that tissues should be stored as."""
    label = np.zeros((32, 32, 32), np.uint8)
    for tissue, name in of_tissue.items():
        label[tissues() == tissue] = TASKS[task].labels[name]
    return label


GLIOMA_LABELS = {CORE: "ncr", OEDEMA: "ed", ENHANCING: "et"}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_labels_become_1_2_3(dtype: type[np.generic], files: Files, write: Write) -> None:
    label = files["seg"]
    case = loaded(write(with_enhancing(files, 4, dtype)))
    assert case.convention == "brats2021"
    assert case.convention_from == "values"
    assert case.label is not None
    assert case.label.dtype == np.uint8
    assert np.array_equal(case.label, np.where(label == 4, 3, label))


@pytest.mark.parametrize(
    ("case_id", "names", "values", "convention", "by"),
    [
        ("case", "2021", V2021, "brats2021", "values"),
        ("case", "2021", LOW, "brats2021", "names"),
        ("case", "2023", V2023, "brats2023", "values"),
        ("case", "2023", LOW, "brats2023", "names"),
        ("BraTS-GLI-00001-101", "2021", V2023, "brats2023", "values"),
        ("Brats18_CBICA_AAB_1", "2023", V2021, "brats2021", "values"),
    ],
)
def test_ids_names_and_values_that_agree(
    write: Write, *, case_id: str, names: str, values: Values, convention: str, by: str
) -> None:
    case = loaded(written(write, values, names, case_id))
    assert (case.convention, case.convention_from) == (convention, by)
    assert np.array_equal(case.label, canonical({t: GLIOMA_LABELS[t] for t in values}))
    assert case.warnings == ()


@pytest.mark.parametrize(
    ("names", "values", "convention", "by"),
    [
        (None, V2021, "brats2021", "values"),
        (None, V2023, "brats2023", "values"),
        (None, LOW, "brats2021", "task"),
        ("brats2015", V2015, "brats2015", "names"),
        ("brats2015", V2021, "brats2015", "names"),
    ],
)
def test_values_decide_where_names_say_nothing(
    write: Write, *, names: str | None, values: Values, convention: str, by: str
) -> None:
    case = loaded(written(write, values, "2021"), names=names)
    assert (case.convention, case.convention_from) == (convention, by)
    assert np.array_equal(case.label, canonical({t: GLIOMA_LABELS[t] for t in values}))
    assert case.warnings == ()


POST_TREATMENT = {"task": "post-treatment"}
NO_CAVITY = {"label_map": {4: "background"}}
DISAGREEMENTS = [
    # names, values, settings that are advised, each with the tissues' labels that it gives
    ("2023", TREATED, POST_TREATMENT, {CORE: "netc", OEDEMA: "snfh", CAVITY: "rc"}),
    ("2023", TREATED, NO_CAVITY, {CORE: "ncr", OEDEMA: "ed"}),
    ("2023", {CAVITY: 4}, POST_TREATMENT, {CAVITY: "rc"}),
    ("2023", V2021, {"label_convention": "brats2021"}, GLIOMA_LABELS),
    ("2021", V2023, {"label_convention": "brats2023"}, GLIOMA_LABELS),
    ("2021", {CORE: 3, OEDEMA: 2}, {"label_convention": "brats2015"}, {CORE: "ncr", OEDEMA: "ed"}),
    ("2021", V2015, {"label_convention": "brats2015"}, GLIOMA_LABELS),
    ("2023", V2023 | {CAVITY: 4}, NO_CAVITY, GLIOMA_LABELS),
    ("2021", V2015, {"label_map": {3: "ncr"}}, GLIOMA_LABELS),
    (
        "2023",
        V2023 | {CAVITY: 4},
        POST_TREATMENT,
        {CORE: "netc", OEDEMA: "snfh", ENHANCING: "et", CAVITY: "rc"},
    ),
]


@pytest.mark.parametrize(("names", "values", "settings", "expected"), DISAGREEMENTS)
def test_values_against_names_are_refused_until_the_manifest_decides(
    names: str, values: Values, settings: dict[str, Any], expected: dict[int, str], write: Write
) -> None:
    folder = written(write, values, names)
    (finding,) = refused(folder)
    assert finding.file.endswith("seg.nii.gz")
    assert str(sorted({0, *values.values()})) in finding.found
    ((key, value),) = settings.items()
    advised = next(iter(value)) if isinstance(value, dict) else value
    assert f"{key}:" in finding.action or key == "label_map"
    assert str(advised) in finding.action
    case = loaded(folder, **settings)
    assert np.array_equal(case.label, canonical(expected, settings.get("task", "glioma")))


def test_three_and_four_are_refused_where_names_say_nothing(write: Write) -> None:
    folder = written(write, V2023 | {CAVITY: 4}, "2021")
    (finding,) = refused(folder, names=None)
    assert "task: post-treatment" in finding.action
    assert "label_convention: brats2015" in finding.action


@pytest.mark.parametrize(
    ("values", "seen"),
    [(V2023, "3 gains"), ({CORE: 3, OEDEMA: 2}, "no value gains"), (V2015, "4 gains")],
)
def test_a_refusal_says_which_value_looks_like_enhancing_tumour(
    values: Values, seen: str, write: Write
) -> None:
    (finding,) = refused(written(write, values, "2021"))
    assert seen in finding.action


@pytest.mark.parametrize(
    ("case_id", "task", "fitting"),
    [
        ("BraTS-PED-00001-000", "glioma", "pediatric"),
        ("BraTS-PEDs-00001-000", "post-treatment", "pediatric"),
        ("BraTS-MEN-RT-0001-1", "glioma", "meningioma-rt"),
        ("BraTS-GLI-00005-000", "pediatric", "glioma"),
        ("BraTS2021_00001", "post-treatment", "glioma"),
        ("UPENN-GBM-00001_11", "metastases", "glioma"),
    ],
)
def test_ids_of_another_task_are_refused(
    case_id: str, task: str, fitting: str, write: Write
) -> None:
    folder = written(write, LOW, "2023", case_id)
    (finding,) = refused(folder, task=task)
    assert f"task: {fitting}" in finding.action
    convention = next(iter(TASKS[task].conventions))
    assert loaded(folder, task=task, label_convention=convention).label is not None
    assert refused(folder, task=task, label_map={2: "background"})  # what is 1?
    every = {value: next(iter(TASKS[task].labels)) for value in (1, 2)}
    assert loaded(folder, task=task, label_map=every).label is not None
    del (files := head(LOW))["seg"]
    unlabelled = loaded(write(files, f"{case_id}9"), task=task)
    assert f"task: {fitting}" in unlabelled.warnings[0].action  # masks would have its values


@pytest.mark.parametrize(
    ("case_id", "task"),
    [
        ("BraTS-GLI-00005-100", "glioma"),
        ("BraTS-GLI-00005-000", "post-treatment"),
        ("BraTS-MET-00005-000", "glioma"),
        ("BraTS-MEN-00005-000", "glioma"),
        ("BraTS-SSA-00005-000", "metastases"),
    ],
)
def test_ids_of_tasks_that_mean_the_same_are_no_doubt(
    case_id: str, task: str, write: Write
) -> None:
    case = loaded(written(write, V2023, "2023", case_id), task=task)
    assert case.warnings == ()
    assert np.array_equal(case.label, canonical(GLIOMA_LABELS))


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        ("post-treatment", {OEDEMA: 2, CAVITY: 4}, {OEDEMA: "snfh", CAVITY: "rc"}),
        ("metastases", V2023, {CORE: "netc", OEDEMA: "snfh", ENHANCING: "et"}),
        ("meningioma-rt", {CORE: 1, ENHANCING: 1}, {CORE: "gtv", ENHANCING: "gtv"}),
    ],
)
def test_a_task_of_one_convention_decides(
    task: str, values: Values, expected: dict[int, str], write: Write
) -> None:
    files, images = head(values), TASKS[task].modalities
    case = loaded(write({name: files[name] for name in (*images, "seg")}), task=task)
    assert list(case.images) == list(images)
    assert (case.convention, case.convention_from) == (next(iter(TASKS[task].conventions)), "task")
    assert np.array_equal(case.label, canonical(expected, task))
    assert case.warnings == ()


def test_paediatric_files_of_both_years(write: Write) -> None:
    of_tissue = {ENHANCING: "et", CORE: "netc", CAVITY: "cc", OEDEMA: "ed"}
    newer = written(write, PEDIATRIC, "2023", "BraTS-PED-00001-000")
    case = loaded(newer, task="pediatric")
    assert (case.convention, case.warnings) == ("brats2024", ())
    assert np.array_equal(case.label, canonical(of_tissue, "pediatric"))
    older = written(write, V2023, "2023", "BraTS-PED-00002-000")
    (doubt,) = loaded(older, task="pediatric").warnings
    assert "label_convention: brats2023-ped" in doubt.action
    case = loaded(older, task="pediatric", label_convention="brats2023-ped")
    del of_tissue[CAVITY]
    assert case.warnings == ()
    assert np.array_equal(case.label, canonical(of_tissue, "pediatric"))


ORDERS = [
    ({CORE: 2, OEDEMA: 1, ENHANCING: 3}, "2023", "label_convention: msd"),
    ({CORE: 2, OEDEMA: 1, ENHANCING: 4}, "2021", "label_map: {1: ed, 2: ncr, 4: et}"),
    ({CORE: 4, OEDEMA: 2, ENHANCING: 1}, "2021", "label_map: {1: et, 2: ed, 4: ncr}"),
    ({CORE: 1, OEDEMA: 3, ENHANCING: 2}, "2023", "label_map: {1: ncr, 2: et, 3: ed}"),
    ({CORE: 2, OEDEMA: 3, ENHANCING: 1}, "2023", "label_convention: deepbratumia"),
    ({CORE: 3, OEDEMA: 1, ENHANCING: 2}, "2023", "label_map: {1: ed, 2: et, 3: ncr}"),
]


@pytest.mark.parametrize(("values", "names", "advice"), ORDERS)
def test_values_in_another_order_contradict_anatomy(
    values: Values, names: str, advice: str, write: Write
) -> None:
    (doubt,) = loaded(written(write, values, names)).warnings
    assert doubt.found.startswith(UNLIKE_ANATOMY)
    assert (doubt.case, doubt.severity) == ("case", "warning")
    assert advice in doubt.action


def test_a_cavity_taken_for_enhancing_tumour_contradicts_anatomy(write: Write) -> None:
    folder = written(write, TREATED, "2021")
    (doubt,) = loaded(folder, names=None).warnings
    assert doubt.found.startswith(UNLIKE_ANATOMY)
    assert "label_map: {4: background}" in doubt.action


@pytest.mark.parametrize("settings", [{"task": "post-treatment"}, {"label_map": {4: "background"}}])
def test_enhancing_tumour_read_as_something_else_contradicts_anatomy(
    settings: dict[str, Any], write: Write
) -> None:
    (doubt,) = loaded(written(write, V2021, "2021"), **settings).warnings
    assert doubt.found.startswith(UNLIKE_ANATOMY + "4, ")
    assert "4: et" in doubt.action or "brats2021" in doubt.action


def test_small_labels_are_not_accused(write: Write) -> None:
    values = {CORE: 2, OEDEMA: 1, ENHANCING: 4}
    files = head(values)
    label = np.zeros_like(files["seg"])
    label[12:16, 12:16, 14:20] = files["seg"][12:16, 12:16, 14:20]  # fewer than 100 voxels
    assert loaded(write(files | {"seg": label})).warnings == ()


def test_without_t1ce_the_surface_alone_is_judged(write: Write) -> None:
    endings = {"flair": ("flair",), "t2": ("t2",)}
    task = GLIOMA.model_copy(update={"modalities": ("flair", "t2")})
    for values, doubts in ((V2021, 0), ({CORE: 2, OEDEMA: 1, ENHANCING: 4}, 1)):
        files = {name: head(values)[name] for name in ("flair", "t2", "seg")}
        folder = write(files, f"case{doubts}")
        assert len(loaded(folder, task=task, modalities=endings).warnings) == doubts


def test_a_label_map_renames_and_drops_values(write: Write) -> None:
    files = head({CORE: 1, OEDEMA: 2, ENHANCING: 9, CAVITY: 5})
    folder = write(files)
    (finding,) = refused(folder)
    assert "[0, 1, 2, 5, 9]" in finding.found
    assert "label_map: {5: " in finding.action
    case = loaded(folder, label_map={9: "et", 5: "background"})
    assert np.array_equal(case.label, canonical(GLIOMA_LABELS))
    signed = files["seg"].astype(np.int16)
    signed[files["seg"] == 5] = -1000
    case = loaded(
        write(files | {"seg": signed}, "signed"), label_map={9: "et", -1000: "background"}
    )
    assert np.array_equal(case.label, canonical(GLIOMA_LABELS))


def test_a_label_map_that_leaves_no_tumour_says_so(write: Write) -> None:
    folder = written(write, {CAVITY: 4}, "2021")
    case = loaded(folder, label_map={4: "background"})
    assert not np.any(case.label)
    assert "label_map" in case.warnings[0].found


@pytest.mark.parametrize("label_map", [{4: "rc"}, {0: "et"}, {"four": "et"}])
def test_a_wrong_label_map_is_refused(label_map: dict[Any, str]) -> None:
    with pytest.raises(ValueError, match="label_map"):
        Manifest(label_map=label_map)


def test_a_label_map_makes_other_arrays() -> None:
    assert Manifest(task="post-treatment", label_map={9: "rc"}).label_map == {9: "rc"}
    plain, mapped = Manifest(), Manifest(label_map={4: "background"})
    assert hash_of(parameters(plain)) != hash_of(parameters(mapped))


def test_the_manifest_decides_and_is_held_to_it(files: Files, write: Write) -> None:
    folder = write(with_enhancing(files, 1))
    case = loaded(folder, label_convention="brats2023")
    assert (case.convention, case.convention_from) == ("brats2023", "manifest")
    (finding,) = refused(write(files, "older"), label_convention="brats2023")
    assert finding.found == "label values [0, 1, 2, 4]"
    assert finding.expected == "brats2023 [0, 1, 2, 3], decided by the manifest"
    assert "brats2021" in finding.action


@pytest.mark.parametrize(
    ("values", "found"),
    [([0, 10], "label values [0, 10]"), ([0, -1, 2], "label values [-1, 0, 2]")],
)
def test_other_values_are_refused(
    values: list[int], found: str, files: Files, write: Write
) -> None:
    label = np.zeros_like(files["seg"], np.int16)
    label[10, 10, : len(values)] = values
    (finding,) = refused(write(files | {"seg": label}))
    assert (finding.found, finding.case) == (found, "case")
    assert "label_map" in finding.action


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf")])
def test_values_that_are_no_whole_numbers_are_refused(
    value: float, files: Files, write: Write
) -> None:
    (finding,) = refused(write(with_enhancing(files, value, np.float32)))
    assert finding.found.startswith("label values such as")
    assert "nearest neighbour" in finding.action


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", [1e-7, -9e-4])
def test_values_that_are_nearly_whole_are_those_numbers(
    noise: float, dtype: type[np.generic], files: Files, write: Write
) -> None:
    expected = loaded(write(files, "whole")).label
    voxels = files["seg"] + noise * np.random.default_rng(0).random(files["seg"].shape)
    case = loaded(write(files | {"seg": voxels.astype(dtype)}))
    assert np.array_equal(case.label, expected)


def test_a_scale_factor_in_a_masks_header_leaves_its_values(files: Files, write: Write) -> None:
    folder = write(files)
    expected = loaded(folder).label
    header = nibabel.load(folder / "case_seg.nii.gz").header
    header.set_data_dtype(np.int16)
    mask = nibabel.Nifti1Image(files["seg"].T.astype(float), None, header)
    nibabel.save(mask, folder / "case_seg.nii.gz")  # 4 / 65535 a step
    assert not np.array_equal(nifti.read(folder / "case_seg.nii.gz").voxels, files["seg"])
    assert np.array_equal(loaded(folder).label, expected)


@pytest.mark.parametrize(("value", "looks"), [(1.0011, "rounded"), (1.4, "interpolated")])
def test_the_digits_of_other_values_are_shown(
    value: float, looks: str, files: Files, write: Write
) -> None:
    (finding,) = refused(write(with_enhancing(files, value, np.float32)))
    assert str(value) in finding.found
    assert looks in finding.action


def test_a_label_of_zeros_is_a_tumour_free_case(files: Files, write: Write) -> None:
    case = loaded(write(files | {"seg": np.zeros_like(files["seg"])}))
    assert case.label is not None
    assert not case.label.any()


def test_a_mask_of_1_alone_is_taken_at_the_manifests_word(files: Files, write: Write) -> None:
    folder = write(files | {"seg": (files["seg"] > 0).astype(np.uint8)})
    assert "a mask of 1 alone" in refused(folder)[0].found
    case = loaded(folder, label_convention="brats2023")
    assert case.label is not None
    assert np.array_equal(case.label, files["seg"] > 0)
    assert [note.found for note in case.warnings] == [
        "a mask of 1 alone, which would be read as necrotic core and nothing else"
    ]


def test_a_brain_mask_is_none_whatever_the_manifest_says(files: Files, write: Write) -> None:
    folder = write(files | {"seg": (files["t1"] > 0).astype(np.uint8)})
    (finding,) = refused(folder, label_convention="brats2021")
    assert finding.found.startswith("looks like a brain mask")


def test_values_of_another_task_are_refused(files: Files, write: Write) -> None:
    label = np.where(files["seg"] == 4, 5, files["seg"]).astype(np.uint8)
    (finding,) = refused(write(files | {"seg": label}), task="pediatric")
    assert finding.expected == "brats2024 [0, 1, 2, 3, 4], decided by the task"


def test_a_task_of_several_conventions_without_known_names(files: Files, write: Write) -> None:
    conventions = {"ours": {"ncr": 1, "ed": 2, "et": 4}, "theirs": {"ncr": 2, "ed": 1, "et": 5}}
    own = {"name": "own", "conventions": conventions, "by_values": ()}
    task = GLIOMA.model_copy(update=own)
    by_values = loaded(write(with_enhancing(files, 5)), task=task)
    assert (by_values.convention, by_values.convention_from) == ("theirs", "values")
    assumed = loaded(write(with_enhancing(files, 1), "assumed"), task=task)
    assert (assumed.convention, assumed.convention_from) == ("ours", "task")
    assert "ours, theirs share" in assumed.warnings[0].found


@pytest.mark.parametrize("labels", [{}, {"label 1": 1}, {"edema": 2}])
def test_values_that_dataset_json_does_not_explain_are_refused(
    labels: dict[str, int], write: Write
) -> None:
    files = head(V2023)
    order = ("t1", "t1ce", "t2", "flair")
    images = write({f"{n:04d}": files[name] for n, name in enumerate(order)}, "imagesTr")
    mask = write({"seg": files["seg"]}, "labelsTr")
    for path in images.iterdir():
        path.rename(path.with_name(path.name.replace("imagesTr", "X")))
    (mask / "labelsTr_seg.nii.gz").rename(mask / "X.nii.gz")
    stated = {"channel_names": dict(enumerate(order)), "labels": labels}
    (mask.parent / "dataset.json").write_text(json.dumps(stated))
    (finding,) = refused(mask.parent)
    assert "label_convention: brats2015" in finding.action
    case = loaded(mask.parent, label_convention="brats2023")
    assert np.array_equal(case.label, canonical(GLIOMA_LABELS))


@pytest.mark.parametrize("four", ["et", "background"])
def test_a_1_beside_values_that_label_map_explains_is_no_mask_of_1(four: str, write: Write) -> None:
    case = loaded(written(write, {CORE: 1, ENHANCING: 4}, "2021"), label_map={4: four})
    of_tissue = {CORE: "ncr"} | ({ENHANCING: "et"} if four == "et" else {})
    assert np.array_equal(case.label, canonical(of_tissue))


def test_exchanged_images_are_not_blamed_on_the_label(write: Write) -> None:
    files = head(V2021)
    folder = write(files | {"t1": files["t1ce"], "t1ce": files["t1"]})
    (doubt,) = loaded(folder).warnings
    assert "t1 and t1ce look exchanged" in doubt.action
    assert "label_map" not in doubt.action


def test_without_t1_there_is_no_advice_about_gains(write: Write) -> None:
    values = {CORE: 2, OEDEMA: 1, ENHANCING: 3}
    files = {ENDINGS_2023[name]: head(values)[name] for name in ("flair", "t1ce", "seg")}
    folder = write(files, joint="-")
    (doubt,) = loaded(folder, modalities={"flair": [], "t1ce": []}).warnings
    assert "background" not in doubt.action
    assert "gain" not in doubt.action


def test_a_tumour_outside_the_brain_is_doubted(write: Write) -> None:
    files = head(V2021)
    folder = write(files | {"seg": np.roll(files["seg"], -6, axis=1)})
    (doubt,) = (w for w in loaded(folder).warnings if "where all images are 0" in w.found)
    assert doubt.file.endswith("seg.nii.gz")


def test_of_many_values_a_few_are_shown(files: Files, write: Write) -> None:
    atlas = np.arange(files["seg"].size).reshape(files["seg"].shape) % 300
    (finding,) = refused(write(files | {"seg": atlas.astype(np.int16)}))
    assert "300 values" in finding.found
    assert len(finding.found) < 100
