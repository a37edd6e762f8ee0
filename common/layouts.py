"""How releases name and place their files, and whose case an id is: tables, read by `discovery`.

Another release is another row. `docs/data.md` shows the tables and says where they were read.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

LABEL = "label"
COMPANION = "companion"
"""The role of files that belong to a case and are not used."""
STACKED = "stacked"
"""The role of a 4-D file that holds all images of a case."""
CHANNEL = "channel"
"""The role of an image whose number `dataset.json` explains."""

BY_NAME = r"(?:(?P<case>[^/]*?)[-_])?{role}"
"""`<case>_<ending>` in any folder; a bare `<ending>` belongs to the case that its folder names."""


@dataclass(frozen=True)
class Layout:
    """How one release names and places the files of a case."""

    name: str
    roles: Mapping[str, tuple[str, ...]]
    """Modality, `label` or another role to regular expressions of its part of a path. The first is
    plain text: `phantom` writes it, and messages show it."""
    path: str = BY_NAME
    """Regular expression of the end of a path without suffix, in which upper and lower case are
    the same. `{role}` stands for a role's part; the group `case` holds the case id, or, where it
    matches nothing, the folder's name is the id."""
    example: str = "{case}/{case}_{role}"
    """Where the release has a file, for `phantom` and messages."""
    label_example: str = ""
    """The same for labels; if empty, `example`."""
    case_id: str = "{:05d}"
    """Ids as the release has them; phantoms have numbers that no patient has."""
    convention: str = ""
    """Label convention that these names suggest; empty if they suggest none."""
    states_convention: bool = False
    """Whether label values never overrule `convention`."""
    before: str = ""
    """A layout whose files are not used where a case has files of this one."""
    task: str = "glioma"
    """The packaged task of the release."""

    def file(self, case_id: str, role: str, part: str = "") -> str:
        """Where the release has one file of a case, without suffix; `part` overrides the role's."""
        example = self.label_example if role == LABEL and self.label_example else self.example
        folder = case_id.replace("_", "/")
        if not part and role in self.roles:
            part = self.roles[role][0].replace("\\", "")
        return example.format(case=case_id, folder=folder, role=part)

    @property
    def has_dataset(self) -> bool:
        """Whether a dataset.json beside the folder of images describes the files."""
        return "{images}" in self.path


def _four(flair: str, t1: str, t1ce: str, t2: str) -> dict[str, tuple[str, ...]]:
    endings = {"flair": flair, "t1": t1, "t1ce": t1ce, "t2": t2}
    return {modality: tuple(text.split()) for modality, text in endings.items()}


_ENTITIES = r"(?:[a-z]+-[a-z0-9]+_)*"
_SEQUENCE = r"(?:mpr|mprage|bravo|f?spgr|tfe|vibe|space|se|tse|[23]d|t1w?|iso|ax|sag|cor)*"
_AGENT = r"(?:ce|gd|gad|gado|gadolinium|post|postgd|postgad|postcontrast|contrast|t1c|t1ce)"
_CONTRAST = (
    r"(?:.*_)?(?:ce-(?!(?:none|no|non|without|pre|native|0+)_)[a-z0-9]+"
    rf"|(?:acq|rec|desc)-{_SEQUENCE}{_AGENT}{_SEQUENCE})_"
)
_TISSUE = (
    r".*(?:brain|aseg|aparc|wmh|prob|tissue|vessel|ventric|-(?:gm|wm|csf|fast|pred|auto)(?![a-z]))"
)
_WEEK = r"(?P<case>Patient-\d+/week-\d+(?:-\d+)?)/"

LAYOUTS = (
    Layout(
        "brats2023",
        _four("t2f", "t1n", "t1c", "t2w") | {LABEL: ("seg",)},
        example="{case}/{case}-{role}",
        case_id="BraTS-PHANTOM-{:05d}-000",
        convention="brats2023",
    ),
    Layout(
        "brats-men-rt",
        {"t1ce": ("t1c",), LABEL: ("gtv",)},
        case_id="BraTS-MEN-RT-9{:03d}-1",
        task="meningioma-rt",
    ),
    Layout(
        "ucsf-pdgm",
        _four("FLAIR", "T1", "T1c", "T2")
        | {
            LABEL: ("tumor_segmentation",),
            COMPANION: (
                r"(?:FLAIR|T1|T1c|T2|DWI|SWI)_bias",
                r"ADC|ASL|DWI|SWI|DTI_eddy_\w+",
                r"brain_(?:parenchyma_)?segmentation",
            ),
        },
        example="{case}_nifti/{case}_{role}",
        case_id="UCSF-PDGM-9{:03d}",
        convention="brats2021",
    ),
    Layout(
        "upenn-gbm",
        _four("FLAIR", "T1", "T1GD", "T2")
        | {
            LABEL: ("segm",),
            COMPANION: (
                "automated_approx_segm",
                r"(?:FLAIR|T1|T1GD|T2)_unstripped",
                r"DTI_\w+|DSC_\w+",
            ),
        },
        example="images_structural/{case}/{case}_{role}",
        label_example="images_segm/{case}_{role}",
        case_id="UPENN-GBM-9{:04d}_11",
        convention="brats2021",
    ),
    Layout(
        "brats2021",
        _four("flair", "t1", "t1ce t1gd t1c", "t2") | {LABEL: ("seg",)},
        case_id="BraTS2021_PHANTOM{:03d}",
        convention="brats2021",
    ),
    Layout(
        "brats2015",
        _four("MR_Flair", "MR_T1", "MR_T1c", "MR_T2") | {LABEL: ("OT",), COMPANION: (r"MR_\w+",)},
        path=r"(?P<case>[HL]G/[^/]+|(?<!/[HL]G/)(?!VSD|SMIR)[^/]+)/(?:(?:VSD|SMIR)\.[^/]+/)?"
        r"(?:VSD|SMIR)\.Brain[^/]*?\.XX\.(?:XX|O)\.{role}(?:\.\d+)?",
        example="HGG/{case}/VSD.Brain.XX.O.{role}.1/VSD.Brain.XX.O.{role}.1",
        label_example="HGG/{case}/VSD.Brain_3more.XX.O.{role}.1/VSD.Brain_3more.XX.O.{role}.1",
        case_id="brats_2013_pat9{:03d}_1",
        convention="brats2015",
        states_convention=True,
    ),
    Layout(
        "brats2015-nifti",
        _four("Flair", "T1", "T1c", "T2") | {LABEL: ("OT",)},
        case_id="brats_2013_pat9{:03d}_1",
        convention="brats2015",
        states_convention=True,
    ),
    Layout(
        "bids",
        {
            "flair": ("FLAIR", _ENTITIES + "FLAIR"),
            "t1": ("T1w", rf"(?!{_CONTRAST}){_ENTITIES}T1w"),
            "t1ce": ("ce-gd_T1w", rf"(?={_CONTRAST}){_ENTITIES}T1w", _ENTITIES + "ce-T1w"),
            "t2": ("T2w", _ENTITIES + "T2w"),
            LABEL: ("dseg", rf"(?!{_TISSUE}){_ENTITIES}(?:dseg|seg|mask|roi)"),
            COMPANION: (_ENTITIES + "[a-z0-9]+",),
        },
        path=r"(?P<case>sub-[a-z0-9]+(?:_ses-[a-z0-9]+)?)_{role}",
        example="{folder}/anat/{case}_{role}",
        label_example="derivatives/masks/{folder}/anat/{case}_{role}",
        case_id="sub-9{:03d}_ses-01",
    ),
    Layout(
        "lumiere",
        {
            "flair": ("skull_strip/flair_skull_strip",),
            "t1": ("skull_strip/t1_skull_strip",),
            "t1ce": ("skull_strip/ct1_skull_strip",),
            "t2": ("skull_strip/t2_skull_strip",),
            LABEL: ("segmentation/seg_mask",),
        },
        path=_WEEK + "DeepBraTumIA-segmentation/atlas/{role}",
        example="Imaging/{folder}/DeepBraTumIA-segmentation/atlas/{role}",
        case_id="Patient-9{:02d}_week-000-1",
        convention="deepbratumia",
        states_convention=True,
        before="lumiere-native",
    ),
    Layout(
        "lumiere-native",
        _four("FLAIR", "T1", "CT1", "T2")
        | {
            LABEL: ("DeepBraTumIA-segmentation/native/segmentation/ct1_seg_mask",),
            COMPANION: (".+",),
        },
        path=_WEEK + "{role}",
        example="Imaging/{folder}/{role}",
        case_id="Patient-9{:02d}_week-000-1",
        convention="deepbratumia",
        states_convention=True,
    ),
    Layout(
        "folders",
        _four("flair t2f", "t1 t1n t1w", "t1ce t1gd t1c ct1", "t2 t2w")
        | {LABEL: ("seg", "segmentations?")},
        path="{role}/(?P<case>[^/]+)",
        example="{role}/{case}",
        case_id="PHANTOM-9{:03d}",
    ),
    Layout(
        "nnunet",
        {CHANNEL: (r"\d{4}",)},
        path="(?:{images})/(?P<case>[^/]+)_{role}",
        example="imagesTr/{case}_{role}",
        label_example="labelsTr/{case}",
        case_id="BraTS2021_9{:04d}",
        states_convention=True,
    ),
    Layout(
        "msd",
        {STACKED: ("",)},
        path="(?:{images})/(?P<case>[^/]+){role}",
        example="imagesTr/{case}",
        label_example="labelsTr/{case}",
        case_id="BRATS_9{:02d}",
        convention="msd",
        states_convention=True,
    ),
)
"""In the order in which they are tried where a case's files fit several."""

LABELS_FOLDER = Layout("labels", {LABEL: ("",)}, path="(?:{labels})/(?P<case>[^/]+){role}")
"""Labels of `nnunet` and `msd`: `labelsTr/<case>`."""

BY_NAMES = {layout.name: layout for layout in LAYOUTS}

_BY_NAME = [layout.roles for layout in LAYOUTS if layout.path == BY_NAME]
IMAGE_ENDINGS = {
    modality: frozenset(part.lower() for roles in _BY_NAME for part in roles.get(modality, ()))
    for modality in _four("", "", "", "")
}
"""Modality to the endings of its files' names in all releases that have the form `BY_NAME`."""

_WORD = (
    r"(?:ses|session|visit|week|wk|timepoint|tp|time|scan|fu|followup|day|month|pre|post|baseline)"
)
_SESSION = rf"{_WORD}(?:[-_]?\d.*|op|treatment)?"
_DAY_ALONE = (
    r"(?:(?:19|20)\d\d(?:[-._]?(?:0[1-9]|1[0-2])[-._]?(?:0[1-9]|[12]\d|3[01])|-(?:0[1-9]|1[0-2]))"
    r"|\d\d[-.]\d\d[-.](?:19|20)\d\d)"
)
_DATE = rf"{_DAY_ALONE}(?:[-_.].*)?"

SESSION_ALONE = re.compile(
    rf"{_WORD}(?:[-_]?\d+(?:-\d+)?|op|treatment)?|{_DAY_ALONE}|[vt]\d", re.IGNORECASE
)
"""An id that tells no patient, as that of `P01/2019-01-02/flair`."""

PATIENTS = (
    r"(?P<patient>BraTS-[a-z-]+-\d+)-\d+",  # 2023 to 2025: -000, -001, -100
    r"(?P<patient>brats1[789]_\w+)_\d+",  # 2017 to 2019: Brats18_CBICA_AAB_1
    r"(?P<patient>brats_(?:2013|tcia)_pat\d+)_\d+",  # 2013 to 2015
    r"(?P<patient>sub-[a-z0-9]+)(?:_.+)?",  # BIDS
    r"(?P<patient>UPENN-GBM-\d+)_\d+",  # _11 before treatment, _21 at recurrence
    r"(?P<patient>UCSF-PDGM-\d+)(?:_FU\d+d)?",
    r"(?P<patient>UCSD-PTGBM-\d+)_\d+",
    r"(?P<patient>BraTS20_(?:training|validation|testing)_\d+|BraTS-PHANTOM\w+)",
    r"(?P<patient>(?:BraTS2021|FeTS\d{4})_[a-z_]*\d+)",
    r"(?P<patient>TCGA-[a-z0-9]{2}-[a-z0-9]{4})(?:[-_.].+)?",
    r"(?P<patient>BRATS_\d+)",  # Decathlon
    # Any id that names a session or a date: Patient-001_week-000-1, PatientID_0003_Timepoint_1.
    # In site1_scan_001 it is the scan that numbers patients.
    rf"(?!(?:site|cent(?:er|re)|hospital)[-_]?\d+[-_]scan)(?P<patient>.*\d.*?)[-_]{_SESSION}",
    rf"(?P<patient>.*\d.*?)[-_.]{_DATE}",
)
"""Case ids whose patient is known, by release; the first that fits the whole id, in any case."""

SESSIONS = (
    rf"(?i)(?P<patient>.+?)[-_.](?:{_SESSION}|{_DATE})$",  # brain_scan_1, smith_2019-01-02
    rf"(?i)(?:{_WORD}[-_]?\d+|{_DAY_ALONE})[-_.](?P<patient>.+)$",  # ses1_P01
    r"(?P<patient>.*?\d+)[-_.]?[VTSMRWDvtsmrwd]\d+(?:[-_.].*)?$",  # P01V1, P01_s1_r1
    r"(?P<patient>.*\d)[A-Za-z]?$",  # 001, 001b
    r"(?P<patient>.*\d.*)[-_.][^-_.]+$",  # P01_a; in case_1 the last part numbers patients
)
"""Values of `patient_pattern` for ids that fit none of `PATIENTS` and may tell of sessions."""

MOST_SESSIONS = 20
"""Of one patient; more ids that begin alike are those of a study or a site."""


def patient_of(case_id: str) -> str | None:
    """The patient of a case id by `PATIENTS`; None if the id fits none."""
    for pattern in PATIENTS:
        if match := re.fullmatch(pattern, case_id, re.IGNORECASE):
            return match["patient"]
    return None


def ids_like_sessions(case_ids: Iterable[str]) -> tuple[str, list[list[str]]] | None:
    """The first of `SESSIONS` by which ids of no known patient share one, and those ids by patient.

    None if they seem to be patients.
    """
    unknown = [case_id for case_id in case_ids if patient_of(case_id) is None]
    for pattern in SESSIONS:
        groups: dict[str, list[str]] = {}
        for case_id in unknown:
            if match := re.match(pattern, case_id):
                groups.setdefault(match["patient"], []).append(case_id)
        if alike := [ids for ids in groups.values() if 1 < len(ids) <= MOST_SESSIONS]:
            return pattern, alike
    return None


_OTHER_MASK = (
    r"brain|head|skull|masked|prob|uncert|overlay|tissue|vessel|ventric|atlas|parc|aseg|wmh"
    r"|(?<![a-z0-9])(?:wm|gm|csf|fast)(?![a-z0-9])"
)
_PREDICTED = r"pred|output|result|infer(?!io)|u-?net|submission|(?<![a-z])auto(?:mat|seg|(?![a-z]))"

OTHER_MASK = re.compile(rf"{_OTHER_MASK}|{_PREDICTED}", re.IGNORECASE)
"""What is in the name of a mask that is no reference label of a tumour."""

PREDICTED = re.compile(_PREDICTED, re.IGNORECASE)
"""What is in the name of a folder of predictions."""

MASK = re.compile(
    rf"(?!.*(?:{_OTHER_MASK}|pred))(?:.*[-_. ])?"
    r"(?:seg|mask|label|roi|truth|gt\b|annot|tumou?r|lesion)\w*",
    re.IGNORECASE,
)
"""A name whose last part is that of a tumour's mask."""

MODALITY_WORDS = {
    "flair": "flair t2f t2flair t2wflair",
    "t1": "t1 t1w t1n t1native t1pre t1precontrast precontrastt1 t1noncontrast t1withoutcontrast",
    "t1ce": "t1ce t1c t1gd t1cew t1wce t1wgd cet1 cet1w ct1 gdt1 t1post t1contrast t1cw "
    "t1contrastenhanced contrastenhancedt1 t1postcontrast postcontrastt1 t1withcontrast "
    "t1gadolinium t1postgd",
    "t2": "t2 t2w",
}
"""Modality to what `dataset.json` may call it, without case, marks and `_NO_MODALITY`."""

_NO_MODALITY = r"[^a-z0-9]|weighted|mri|\bmr\b|images?\b"

LABEL_WORDS = (
    ("background", r"back"),
    ("wt", r"whole|^wt"),
    ("ed snfh", r"ede?ma|^ed$|snfh|hyperint|infiltrat|invad"),
    ("ncr netc", r"\b(?:non|not|un).*enh|necro|^ncr|^net|^nec"),
    ("et", r"enh|^et$|gd|active"),
    ("tc", r"core|^tc$"),
    ("rc", r"resect|cavity|^rc$"),
    ("cc", r"cyst|^cc$"),
    ("gtv", r"gtv|gross"),
)
"""Labels and regions to what `dataset.json` may call them; the first that fits counts."""


def modality_named(text: str, modalities: Iterable[str]) -> str | None:
    """The modality that `dataset.json` calls so; None if none is."""
    word = re.sub(_NO_MODALITY, "", text.lower().replace("_", " "))
    return next((m for m in modalities if word in (m, *MODALITY_WORDS.get(m, "").split())), None)


def label_named(text: str, names: Collection[str]) -> str | None:
    """What `dataset.json` calls so: of `names` where they have it; None if that is not known."""
    word = text.lower().replace("_", " ").strip()
    if word in names:
        return word
    for known, pattern in LABEL_WORDS:
        if re.search(pattern, word):
            return next((name for name in known.split() if name in names), known.split()[0])
    return None
