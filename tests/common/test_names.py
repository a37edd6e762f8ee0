"""Which names may be stored, and how any text is shown."""

import pytest

from common.names import name_fault, show, some

HOSTILE = {
    "empty": "",
    "parent": "..",
    "below": "a/b",
    "escape": "../../victim",
    "absolute": "/etc/passwd",
    "windows": "a\\b",
    "chained": "a::b",
    "newline": "a\nb",
    "null": "a\0b",
    "terminal": "a\x1b[2Jb",
    "c1": "a\x9b2Jb",
    "turned": "a\u202eb",
    "invisible": "a\u200bb",
    "surrogate": "a\udc80b",
    "home": "~root",
    "hidden": ".hidden",
    "space": "a ",
    "long": "é" * 101,
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_name_is_not_stored(name: str) -> None:
    assert name_fault(name)


@pytest.mark.parametrize("name", ["BraTS-GLI-00000-000", "Fall 1 (links)", "é" * 100, "$a$", "a:b"])
def test_an_unusual_name_is_stored(name: str) -> None:
    assert not name_fault(name)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_any_text_is_shown_on_one_harmless_line(text: str) -> None:
    assert show(text).isprintable()


def test_a_harmless_text_is_shown_as_it_is() -> None:
    assert show("Größe 3 mm – \\n [bold]") == "Größe 3 mm – \\n [bold]"


def test_a_long_list_is_cut_and_counted_and_each_name_safe_to_show() -> None:
    assert some(["a", "b"], 2) == "a, b"
    assert some(["a\x1b", "b", "c", "d"], 2) == r"a\x1b, b and 2 more"
