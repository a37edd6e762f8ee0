"""Every kind of odd input: how to make it, and what is found."""

import os
import shutil

import nibabel
import numpy as np
from folders import NO_FILES, too_deep

from common.geometry import Geometry
from tests.preprocess.odd.build import (
    CODES,
    NAMES,
    QFORM,
    RAS,
    ROWS,
    SHAPE,
    SIGN,
    SIZES,
    SPACINGS,
    TYPE,
    Build,
    another_order,
    arrays,
    as_float,
    binary,
    both_three_and_four,
    copied,
    cut,
    everywhere,
    head,
    no_file,
    noisy,
    renamed,
    reordered,
    several,
    spaced,
    stacked,
    thin,
    tilt,
    turned,
    with_arrays,
    with_bytes,
    with_dataset,
    with_files,
    with_grids,
    with_header,
    with_nibabel,
    without,
    written,
)

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"

GOOD: dict[str, Build] = {
    "mixed case": renamed("odd_t1.nii.gz", "odd_t1.Nii.gz"),
    "plain": lambda data: written(data, arrays()),
    "sign of 0": with_header(SIGN, "f", 0.0, names=NAMES),
}
"""What there is nothing to say of."""

ERRORS: dict[str, tuple[Build, str]] = {
    "truncated": (with_bytes("t1", lambda b: b[:-40]), "damaged: incomplete or truncated stream"),
    "cut in its header": (with_bytes("t1", lambda b: b[:90]), "damaged: incomplete or truncated"),
    "empty file": (with_bytes("t1", lambda _: b""), "an empty file"),
    "checksum": (with_bytes("t1", lambda b: b[:-8] + bytes(8)), "damaged: "),
    "link to nothing": (no_file("t1", NO_FILES["a link to nothing"]), "a link to nothing"),
    "link to itself": (no_file("t1", lambda path: path.symlink_to(path)), "unreadable: Too many"),
    "named pipe": (no_file("seg", NO_FILES["a named pipe"]), "a named pipe"),
    "gzip in disguise": (renamed("odd_t1.nii.gz", "odd_t1.nii"), "gzip under a name without .gz"),
    "pointer": (with_bytes("t1", lambda _: POINTER), "a git-LFS pointer"),
    "web page": (with_bytes("t1", lambda _: b"<html>" * 99), "no NIfTI header, it begins with"),
    "magic": (with_header(344, "B", 0, 0, 0, 0), "a header with the magic b''"),
    "pair": (with_header(344, "B", *b"ni1\0"), "a header with the magic b'ni1'"),
    "second version": (
        with_nibabel("t1", lambda v: nibabel.Nifti2Image(v, np.eye(4))),
        "a NIfTI-2",
    ),
    "short": (with_bytes("t1", lambda b: b[:-9], unzipped=True), "damaged: 25303 bytes for"),
    "absurd": (with_header(SIZES, "h", 32000, 32000, 32000), "65,536.0 GB for (32000, "),
    "too large for the file": (with_header(SIZES, "h", 900, 900, 900), "bytes for (900, 900, 900)"),
    "no size": (with_header(SIZES, "h", 0), "damaged: 3 axes of (0, "),
    "bomb": (
        with_bytes("t1", lambda b: b + bytes(1 << 25), unzipped=True),
        "damaged: it is longer than its header says",
    ),
    "slice": (
        with_nibabel("t1", lambda v: nibabel.Nifti1Image(v[:, :, 0], np.eye(4))),
        "2 axes of (26, 24)",
    ),
    "series": (
        with_nibabel("t1", lambda v: nibabel.Nifti1Image(np.stack([v, v], -1), np.eye(4))),
        "4 axes of (2, 20, 26, 24)",
    ),
    "colours": (with_header(TYPE, "h", 128), "voxels of type RGB"),
    "complex": (
        with_nibabel("t1", lambda v: nibabel.Nifti1Image(v.astype(np.complex64), np.eye(4))),
        "voxels of type complex64",
    ),
    "spacing": (with_header(SPACINGS, "f", -1, -1, -1), "spacing ("),
    "nowhere": (with_header(ROWS, "f", *[float("nan")] * 12), "nan in its sform"),
    "sheared": (
        with_nibabel("t1", lambda v: nibabel.Nifti1Image(v, np.eye(4) + np.eye(4, k=1) / 3)),
        "sheared axes in its sform, and no qform",
    ),
    "NaN": (with_arrays(t1=as_float("t1", float("nan"))), "3 voxels that are NaN or infinite"),
    "infinity": (with_arrays(t1=as_float("t1", float("inf"))), "3 voxels that are NaN or infinite"),
    "beyond float32": (with_arrays(t1=as_float("t1", 1e300)), "intensities up to 1e+300"),
    "zeros": (with_arrays(t1=lambda f: np.zeros_like(f["t1"])), "only zeros"),
    "constant": (
        with_arrays(t1=lambda f: np.where(f["t1"], 700, 0).astype(np.int16)),
        "the same value, 700, in all of the brain",
    ),
    "constant everywhere": (
        with_arrays(t1=lambda f: np.full_like(f["t1"], 5)),
        "the same value, 5, in all of the brain",
    ),
    "moved": (
        with_grids({"t2": Geometry(SHAPE, (1, 1, 1), (0, -24, 0))}),
        "a grid of (20, 26, 24)",
    ),
    "other spacing": (with_grids({"t2": Geometry(SHAPE, (1, 1, 1.2), (0, -25, 0))}), "a grid of"),
    "turned elsewhere": (
        with_grids({"seg": Geometry(SHAPE, (1, 1, 1), (0, -25, 0), RAS.direction)}),
        "a grid of",
    ),
    "metres": (everywhere(spaced(0.001, 0.001, 0.001)), "a volume of 0.02 × 0.026 × 0.024 mm"),
    "coarse": (everywhere(spaced(29, 22, 24)), "20 × 26 × 24 voxels of 29 × 22 × 24 mm (z, y, x)"),
    "thin": (thin, "a brain of 15 × 1 × 1 voxels of 1 × 0.35 × 0.35 mm"),
    "another task's id": (
        several(("BraTS-PED-00001-000", 1, 3)),
        "a case id of paediatric tumours under task glioma",
    ),
    "interpolated": (with_arrays(seg=lambda f: f["seg"] * np.float32(0.5)), "label values such as"),
    "other values": (with_arrays(seg=lambda f: f["seg"] * 2), "label values [0, 2, 4, 8]"),
    "mixed values": (
        with_arrays(seg=lambda f: np.where(f["flair"] > 800, 3, f["seg"]).astype(np.uint8)),
        "label values [0, 1, 2, 3, 4]",
    ),
    "brain mask": (
        with_arrays(seg=lambda f: (f["flair"] > 0).astype(np.uint8)),
        "looks like a brain mask: 1 in 100% of the brain",
    ),
    "ones": (with_arrays(seg=lambda f: np.ones_like(f["seg"])), "looks like a brain mask"),
    "binary": (
        with_arrays(seg=binary),
        "a mask of 1 alone, which would be read as necrotic core and nothing else",
    ),
    "five channels": (stacked(5), "5 channel(s), 4 axes of (5, 20, 26, 24)"),
    "three channels": (stacked(3), "3 channel(s), 4 axes of (3, 20, 26, 24)"),
    "no channels": (stacked(None), "1 channel(s), 3 axes of (20, 26, 24)"),
    "unexplained values": (
        with_dataset(labels={"edema": 2}),
        "label values [0, 1, 2, 3], and no dataset.json says what all of them mean",
    ),
}
"""What keeps a case out when its files are read."""

LEFT_OUT: dict[str, tuple[Build, str]] = {
    "missing": (without("t1", "t2"), "t1, t2 are missing"),
    "doubled": (copied("odd_t1ce.nii.gz", "odd/odd_t1gd.nii.gz"), "2 candidates for t1ce: "),
    "two labels": (copied("odd_seg.nii.gz", "odd/odd_seg.nii"), "2 candidates for label: "),
    "two folders": (
        lambda data: [written(data / d, arrays()) for d in ("a", "b")],
        "2 folders make this case id",
    ),
    "nothing": (lambda data: data.mkdir(exist_ok=True), "no usable case"),
    "no images": (stacked(images=False), "flair, t1, t1ce, t2 are missing"),
    "unknown": (copied("odd_t1.nii.gz", "odd/odd_pd.nii.gz"), "name ends in 'pd', which the man"),
    "torn and unknown": (
        with_files(odd_pd__nii__gz=b"\x1f\x8b\x08\0"),
        "damaged: incomplete or truncated stream; also, name ends in 'pd'",
    ),
    "other format": (with_files(odd_t1__mha=b"ObjectType = Image"), "file of type '.mha'"),
    "unreadable folder": (
        lambda data: [written(data, arrays()), too_deep(data / "odd" / "deep")],
        "unreadable folder: File name too long",
    ),
    "unsafe id": (
        lambda data: [
            path.rename(path.with_name(path.name.replace("odd", "a::b")))
            for path in written(data, arrays()).rglob("*.nii.gz")
        ],
        "a case id that is a name with ::",
    ),
    "folder": (no_file("seg", NO_FILES["a folder"]), "a folder with the name of a file"),
    "not UTF-8": (
        copied("odd_t1.nii.gz", os.fsdecode("Müller/odd_t1.nii.gz".encode("latin-1"))),
        "a name that is not UTF-8",
    ),
    "two masks": (
        lambda data: [
            renamed("odd_seg.nii.gz", "one_tumor.nii.gz")(data),
            shutil.copy(data / "odd" / "one_tumor.nii.gz", data / "odd" / "two_tumor.nii.gz"),
        ],
        "no label: one_tumor.nii.gz and two_tumor.nii.gz are not used",
    ),
    "both layouts": (
        lambda data: [
            stacked()(data),
            written(data, {"flair": arrays()["flair"]}, case_id="BRATS_001"),
        ],
        "a 4-D image and flair",
    ),
    "other channels": (
        with_dataset(modality={"0": "T1", "1": "T1Gd", "2": "T2", "3": "FLAIR"}),
        "dataset.json orders the images T1, T1Gd, T2, FLAIR",
    ),
    "other labels": (
        with_dataset(labels={"background": 0, "edema": 1, "resection cavity": 2}),
        "labels background, edema, resection cavity; 1 label(s) are not used",
    ),
    "no id": (copied("odd_t1.nii.gz", "_t1.nii.gz", "_t2.nii.gz"), "no case id in _t1.nii.gz, _t2"),
    "torn dataset": (
        lambda data: [stacked()(data), (data / "dataset.json").write_text("{")],
        "no JSON: ",
    ),
    "loose pipe": (
        lambda data: NO_FILES["a named pipe"](written(data, arrays()) / "notes"),
        "unreadable file (a named pipe)",
    ),
    "loose pointer": (with_files(odd_t1__mha=POINTER), "git-LFS pointer, the image was"),
}
"""What is found before any case is read."""

WARNINGS: dict[str, tuple[Build, str]] = {
    "mask of another name": (
        renamed("odd_seg.nii.gz", "W39_Segm.nii.gz"),
        "taken for the label of this case, which has no other",
    ),
    "label called mask": (
        renamed("odd_seg.nii.gz", "odd_mask.nii.gz"),
        "labels in 0 of 1 cases; 1 file(s) not used: *_mask.nii.gz",
    ),
    "label elsewhere": (
        lambda data: [
            copied("odd_seg.nii.gz", "out/odd_seg.nii.gz")(data),
            (data / "odd" / "odd_seg.nii.gz").unlink(),
        ],
        "1 label(s) in another folder than their images, as out/odd_seg.nii.gz",
    ),
    "a prediction": (
        copied("odd_seg.nii.gz", "predictions/odd_seg.nii.gz"),
        "a label in a folder of predictions, not used",
    ),
    "a second label": (
        copied("odd_seg.nii.gz", "odd/odd_wmh_seg.nii.gz"),
        "a mask called 'wmh', not used",
    ),
    "one patient": (
        several(*[(f"P1_ses-{n}", n, 4) for n in range(1, 5)]),
        "4 of 4 cases are taken for one patient, P1",
    ),
    "like sessions": (
        several(("P1_a", 1, 4), ("P1_b", 2, 4)),
        "2 case ids that may be sessions, such as P1_a and P1_b",
    ),
    "link back": (
        lambda data: (written(data, arrays()) / "loop").symlink_to(".."),
        "a link to a folder that it is in",
    ),
    "two links": (
        lambda data: [
            written(data, arrays()),
            (data.parent / "elsewhere").mkdir(exist_ok=True),
            [(data / link).symlink_to("../elsewhere") for link in "ab"],
        ],
        "a link to a folder that another link leads to",
    ),
    "manifest below": (
        lambda data: (written(data, arrays()) / "data_manifest.yaml").touch(),
        "a manifest in a subfolder",
    ),
    "turned label": (turned("seg"), "another order of axes than odd_flair.nii.gz"),
    "turned image": (turned("t2"), "another order of axes than odd_flair.nii.gz"),
    "a little off": (
        with_grids({"seg": Geometry(SHAPE, (1, 1, 1), (0.04, -25, 0))}),
        "a grid 0.04 voxels off that of odd_flair.nii.gz",
    ),
    "oblique": (everywhere(tilt(17)), "an oblique grid, 17° off the body's axes"),
    "thick slices": (everywhere(spaced(3, 1, 1)), "voxels of 3 × 1 × 1 mm (z, y, x)"),
    "fine": (everywhere(spaced(0.8, 0.8, 0.8)), "voxels of 0.8 × 0.8 × 0.8 mm (z, y, x)"),
    "no codes": (
        with_header(CODES, "h", 0, 0, names=NAMES),
        "no orientation in its header: the codes of sform and qform are 0 (and 4 more file(s)",
    ),
    "two places": (
        with_header(QFORM + 12, "f", 5.0, names=("t1",)),
        "placed by its sform; its qform is up to 5 mm off",
    ),
    "no number": (
        with_header(SPACINGS, "f", float("nan")),
        "a qform with NaN or infinity in it",
    ),
    "no rotation": (with_header(QFORM, "f", 2.0, 2.0, 2.0), "a qform that is no rotation"),
    "another order": (
        with_arrays(seg=another_order),
        "labels that contradict anatomy: necrotic core has 98% of the tumour's surface, oedema 0%",
    ),
    "shifted label": (
        with_arrays(seg=lambda f: np.roll(f["seg"], -6, axis=1)),
        "33% of the tumour is where all images are 0",
    ),
    "label of another dataset": (
        copied("odd_seg.nii.gz", "other/labelsTr/odd.nii.gz"),
        "a label of another dataset, not used",
    ),
    "no tumour": (with_arrays(seg=lambda f: np.zeros_like(f["seg"])), "no tumour, only zeros"),
    "twice": (with_arrays(t2=lambda f: f["t1"]), "the same voxels for t2 as for t1"),
    "noise around the brain": (
        with_arrays(t2=noisy),
        "hardly any background: 0.0% of its voxels are 0",
    ),
    "head": (head, "a head with its skull? 2.7 l are not 0 (and 3 more file(s) of the case)"),
    "NaN around the brain": (
        with_arrays(t2=lambda f: np.where(f["t2"], f["t2"], np.float32("nan"))),
        "NaN in 71.0% of the voxels, outside the brain",
    ),
    "another background": (
        with_arrays(t2=lambda f: f["t2"] - np.int16(1024)),
        "a background that is not 0: -1024 in 71% of the voxels, 0 in 0%",
    ),
    "clipped": (
        with_arrays(t2=lambda f: f["t2"].clip(0, 800)),
        "clipped: 11.1% of what is not 0 has the largest value",
    ),
    "stacked": (stacked(), "1 case(s) of one 4-D file, read as flair, t1, t1ce, t2, and their lab"),
    "mixed": (
        several(("a", 1, 4), ("b", 2, 4), ("BraTS-GLI-00003-000", 3, 3)),
        "labels of 2 brats2021 (by values), 1 brats2023 (by values)",
    ),
    "ids of another task": (
        several(("BraTS-MET-00001-000", 1, 3)),
        "1 case(s) with ids of metastases",
    ),
    "copies": (several(("a", 1, 4), ("b", 1, 4)), "flair, t1, t1ce, t2 have the same voxels as "),
}
"""What keeps nothing out."""

VISITS = ("BraTS-GLI-00000-000", "BraTS-GLI-00000-001")
Lists = dict[str, tuple[str, ...]]
TRAINING = "nothing to store the cases; to train, add cases or name other splits"
SPLITS: dict[str, tuple[Build, Lists, str, str, str]] = {
    "copies in two splits": (
        several(("a", 1, 4), ("b", 1, 4)),
        {"train": ("a",), "test": ("b",)},
        "flair, t1, t1ce, t2 have the same voxels as those of a",
        "move one away: a is in train and b in test",
        "error",
    ),
    "an empty split": (
        several(("a", 1, 4)),
        {"train": ("a",), "val": ("gone",)},
        "split 'val' is empty: 1 labelled case(s)",
        TRAINING,
        "warning",
    ),
    "a typo in a list": (
        several(("case_1", 1, 4), ("case_2", 2, 4)),
        {"train": ("case_1", "case2")},
        "splits name 1 case(s) that are not here, such as case2 (is it case_2?)",
        "correct the lists, unless the cases are elsewhere",
        "warning",
    ),
    "a case in no list": (
        several(("a", 1, 4), ("b", 2, 4)),
        {"train": ("a",)},
        "1 labelled case(s) in no split, such as b",
        "nothing if they should only be stored; otherwise list them",
        "warning",
    ),
    "a split of a damaged case": (
        cut(several(("a", 1, 4), ("b", 2, 4)), "b"),
        {"train": ("a",), "val": ("b",)},
        "split 'val' is empty: 1 labelled case(s)",
        TRAINING,
        "warning",
    ),
    "labels in another order": (
        reordered("a", "b"),
        {},
        "labels of 2 of 2 labelled case(s) contradict anatomy",
        "if these are most cases, set what their lines say; else look at each of them",
        "warning",
    ),
    "3 and 4 in one case": (
        both_three_and_four,
        {},
        "1 case(s) whose 4 is read as enhancing tumour, such as b, and 1 that have both 3 and 4",
        "if 4 is a resection cavity in all of them, set task: post-treatment in the manifest, or "
        "label_map: {4: background}; if 3 is non-enhancing core, label_convention: brats2015",
        "warning",
    ),
    "a divided patient": (
        several((VISITS[0], 1, 3), (VISITS[1], 2, 3)),
        {"train": VISITS[:1], "test": VISITS[1:]},
        "splits: patient BraTS-GLI-00000 is in train and in test",
        TRAINING,
        "warning",
    ),
}
"""What depends on several cases and the manifest's splits: found, what to do, severity."""
