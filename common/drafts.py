"""A case whose files may be incomplete, and what is wrong with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from common.dataset_json import NAME as DATASET_JSON
from common.dataset_json import DatasetJson
from common.grouping import File, Group, fits, without_suffix
from common.layouts import (
    BY_NAME,
    CHANNEL,
    MASK,
    MODALITY_WORDS,
    PREDICTED,
    STACKED,
    modality_named,
)
from common.manifest import Manifest
from common.names import name_fault
from common.task import Task

Problem = tuple[str, str, str]
"""Found, expected and action of a finding about a case."""


@dataclass
class Draft:
    """What a folder has of one case id."""

    case_id: str
    group: Group
    """Its images and, with them, perhaps its label; its label alone if it has no images."""
    images: list[File]
    labels: list[File]
    companions: list[File]

    @property
    def roles(self) -> set[str]:
        """The roles of its images."""
        return {file.role for file in self.images}

    @property
    def dataset_folder(self) -> Path:
        """The folder whose dataset.json describes it: above that of its images."""
        return self.images[0].path.parent.parent

    @property
    def files(self) -> list[File]:
        """Images and labels."""
        return self.images + self.labels


def check_id(draft: Draft) -> list[Problem]:
    """Names without a case id, as scripts write for a variable that is not set; unsafe names."""
    files, rename = sorted(file.path.name for file in draft.files), "rename the files"
    if not draft.case_id.strip("-_ "):
        found, expected = f"no case id in {', '.join(files)}", "names that start with the case's id"
        return [(found, expected, f"{rename}, or move them away")]
    if fault := name_fault(draft.case_id):
        expected = "a case id that can be the name of a file on any system"
        return [(f"a case id that is {fault}", expected, f"{rename}, or their folder")]
    return []


def check_doubled(draft: Draft, shown: Callable[[Path], str]) -> list[Problem]:
    """Several files for one image or for the label; `shown` makes a path that tells them apart."""
    by_role: dict[str, list[Path]] = {}
    for file in draft.files:
        by_role.setdefault(file.role, []).append(file.path)
    problems = []
    for role, paths in by_role.items():
        if len(paths) > 1 and role != CHANNEL:
            one_folder = len({path.parent for path in paths}) == 1
            names = ", ".join(p.name if one_folder else shown(p) for p in paths)
            what = "4-D image" if role == STACKED else role
            action = "move the others away, or narrow the endings in the manifest"
            problems.append(
                (f"{len(paths)} candidates for {what}: {names}", f"one {what} file", action)
            )
    return problems


def check_missing(
    draft: Draft, task: Task, dataset: DatasetJson, *, all_needed: bool
) -> list[Problem]:
    """Modalities without a file, and what the nearest layout or dataset.json calls it.

    With `all_needed`, as by a network, the manifest cannot do without one.
    """
    missing = [m for m in task.modalities if m not in draft.roles]
    if STACKED in draft.roles:
        others = ", ".join(sorted(draft.roles - {STACKED}))
        action = "keep one of the two, or move the files away"
        return [(f"a 4-D image and {others}", "one of the two", action)] if others else []
    if not missing:
        return []
    found = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    if CHANNEL in draft.roles:
        stated = dict(enumerate(dataset.channels))
        numbers = [file.part for file in draft.images if file.role == CHANNEL]
        listed = ", ".join(f"_{n} ('{stated.get(int(n), '')}')" for n in numbers)
        expected = f"{DATASET_JSON} beside the images' folder, which names each image in its "
        expected += f"channel_names, as t1 or t1ce; not so for {listed}"
        action = "correct the names, list the endings (modalities: {flair: ['0003'], …} in the "
        action += "manifest), or add what is missing"
        return [(found, expected, action)]
    layout = draft.group.nearest()
    files = [Path(layout.file(draft.case_id, m)) for m in missing if m in layout.roles]
    names = [str(file) if file.name == draft.case_id else file.name for file in files]
    expected = ", ".join(f"{name}.nii.gz" for name in names) + f", as in layout {layout.name}"
    if len(names) < len(missing):
        expected = f"an image for each of {', '.join(task.modalities)}"
    there = [m for m in task.modalities if m in draft.roles]
    action = "add it, or move the files away"
    if there and all_needed:
        action = f"add it, or predict with a run that was trained on {', '.join(there)} alone"
        if len(missing) == 1:
            action += ", or with augment.modality_dropout"
    elif there:
        listed = ", ".join(f"{m}: []" for m in there)
        action = f"add it; where all cases lack it, set modalities: {{{listed}}} in the manifest"
    return [(found, expected, action)]


def check_channels(draft: Draft, manifest: Manifest, dataset: DatasetJson) -> list[Problem]:
    """A dataset.json that orders the images of 4-D files otherwise than the manifest.

    Names that are not understood, such as `MR0`, say nothing.
    """
    ours = manifest.stacked.channels
    known = {*MODALITY_WORDS, *manifest.task.modalities}
    named = [modality_named(name, known) for name in dataset.channels]
    if all(name in (None, our) for name, our in zip_longest(named, ours)):
        return []
    found = f"{DATASET_JSON} orders the images {', '.join(dataset.channels)}"
    action = "set stacked.channels in the manifest to their order in the files"
    return [(found, f"stacked.channels, {', '.join(ours)}", action)]


def convention_of(draft: Draft, dataset: DatasetJson | None, task: Task) -> tuple[str | None, bool]:
    """The label convention that names and places suggest, and whether it is certain.

    `dataset` is the label's, None for labels that need none: its statement is all that counts.
    """
    layout = draft.group.layout()
    convention = layout.convention if layout else ""
    is_certain = layout is not None and layout.states_convention
    if dataset is not None:
        convention, is_certain = (convention if layout and layout.has_dataset else ""), True
        stated = dataset.conventions(task)
        if stated is not None and convention not in stated:
            convention = next(iter(stated)) if len(stated) == 1 else ""
    elif layout and is_certain and not all(fits(layout, file) for file in draft.labels):
        convention, is_certain = "", False  # the values of another's label may differ
    known = task.conventions if is_certain else task.told_by_values
    return (convention, is_certain) if convention in known else (None, False)


def is_prediction(label: Path, images: Sequence[File]) -> bool:
    """Whether a label is in a folder of predictions, which its images are not in."""
    shared = {folder for file in images for folder in file.path.parent.parts}
    return any(PREDICTED.search(folder) for folder in label.parent.parts if folder not in shared)


def has_near_label(draft: Draft) -> bool:
    """Whether a label is beside its images, where its layout has it, or in a folder of masks."""
    layout = draft.group.layout()
    label, image = (Path(without_suffix(f.path) or "") for f in (draft.labels[0], draft.images[0]))
    is_known = layout is not None and (layout.label_example != "" or layout.path != BY_NAME)
    return is_known or label.parent == image.parent or MASK.fullmatch(label.parent.name) is not None
