"""Names that come from others' files and folders: which may be stored, and how to show any text."""

from collections.abc import Sequence

MAX_NAME_BYTES = 200
"""File systems allow 255; the rest is for what is added to a case id, as `.<id>-wt.nii.gz…`."""

SEPARATORS = ("/", "\\", "::")
"""Of folders, here or on another system, and of the addresses that fsspec chains."""


def show(text: object) -> str:
    r"""A text that is safe to print on one line of a terminal.

    Control characters, line ends, marks that turn the direction of writing, invisible characters
    and what is not Unicode become escapes such as `\x1b`.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def shortened(text: str, most: int = 100) -> str:
    """A text without its middle where it is long."""
    return text if len(text) <= most else f"{text[: most * 3 // 5]} … {text[-most // 5 :]}"


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, safe to show, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(show, names[:most])) + more


def name_fault(name: str) -> str:
    """What keeps a text from being a name in a store or a run: one name below its folder.

    Empty if nothing does. It may become a file's name on any system, and part of an address.
    """
    size = len(name.encode(errors="replace"))
    marks = [mark for mark in SEPARATORS if mark in name]
    faults = {
        "an empty name": not name,
        "a name that a store has for its own files": name == "zarr.json",
        "a name with control or invisible characters": not name.isprintable(),
        f"a name with {' and '.join(marks)}": marks,
        "a name that begins or ends with a space": name != name.strip(),
        f"a name that begins with {name[:1]}": name[:1] in {".", "~"},
        f"a name of more than {MAX_NAME_BYTES} bytes": size > MAX_NAME_BYTES,
    }
    return next((fault for fault, has_it in faults.items() if has_it), "")
