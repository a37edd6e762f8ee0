"""Regular expressions that a user writes: none that could match for ever."""

import re
from collections.abc import Iterator
from itertools import pairwise
from math import prod
from re import _compiler, _constants, _parser  # type: ignore[attr-defined]  # none public parses
from typing import Any

LONGEST_PATTERN = 500

COUNTED = 48
"""Lengths of a repeat without an end, in an id of usual length."""

DECIDED = 8
"""What a repeat whose length is certain counts: to find its end costs about as much."""

MOST_WAYS = 4 * COUNTED**3
"""In which a pattern may be laid over a text: three repeats whose length its rest leaves open, and
two `?`. At worst they take a tenth of a second over 200 characters, 0.1 ms over 20."""

REPEATS = {_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT}
ONCE = {_constants.SUBPATTERN, _constants.BRANCH}
ONE_CHARACTER = {_constants.LITERAL, _constants.NOT_LITERAL, _constants.IN, _constants.ANY}

Item = tuple[Any, Any]
"""An operation of a parsed pattern, and its argument."""
END: Item = (_constants.SUCCESS, None)
"""What follows a whole pattern."""
LAST = ((_constants.AT, _constants.AT_END), (_constants.AT, _constants.AT_END_STRING))
"""`$` and its like."""


def check_pattern(pattern: str, group: str) -> None:
    """Refuse what is no regular expression, lacks a group, or could take for ever to match.

    Python's engine tries every way to lay a pattern over a text that does not match; `(a+)+$` has
    2¹⁰⁰ for one of 100 characters.

    Raises:
        ValueError: it is any of this.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"a pattern of {len(pattern):,} characters; {LONGEST_PATTERN} at most")
    try:
        groups = re.compile(pattern).groupindex
        ways = _ways(_without_end(_parser.parse(pattern)), END)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"no regular expression: {error}") from error
    if group not in groups:
        raise ValueError(f"no group (?P<{group}>…)")
    if ways > MOST_WAYS:
        raise ValueError("could take for ever to match; use fewer * and +, and none inside another")


def _ways(pattern: _parser.SubPattern, after: Item | None) -> int:
    """In how many ways a parsed pattern can be laid over a text; no more than one above the most.

    A repeat takes any number of its part, each in any of the part's ways, unless what comes next
    (`after`, at the end) decides its length.
    """
    ways = 1
    for (operation, argument), following in pairwise([*pattern, after]):
        once = operation in ONCE or (operation in REPEATS and argument[1] == 1)
        inner = [_ways(part, following if once else None) for part in _parts(argument)]
        if operation not in REPEATS:
            ways *= sum(inner) if operation is _constants.BRANCH else prod(inner)
        elif _is_character(argument[2]) and _ends_before(argument[2], following):
            ways *= 1 if following == END else DECIDED
        else:
            least, most, _ = argument
            first, count = min(int(least), COUNTED), min(int(most) - int(least) + 1, COUNTED)
            ways *= sum(prod(inner) ** times for times in range(first, first + count))
        ways = min(ways, MOST_WAYS + 1)
    return ways


def _without_end(pattern: _parser.SubPattern) -> _parser.SubPattern:
    """A parsed pattern without the `$` that may be its last."""
    return pattern[:-1] if len(pattern) and pattern[-1] in LAST else pattern


def _is_character(part: _parser.SubPattern) -> bool:
    """Whether a repeat's part is a single character of some kind."""
    return len(part) == 1 and part[0][0] in ONE_CHARACTER


def _ends_before(part: _parser.SubPattern, following: Item | None) -> bool:
    """Whether what follows a repeated character is the end, or a character that it cannot take."""
    if following is None or following[0] is not _constants.LITERAL:
        return following == END
    character = chr(following[1])
    is_cased = character.lower() != character.upper()  # flags of a group may change what it takes
    return not (is_cased or _compiler.compile(part).fullmatch(character))


def _parts(argument: object) -> Iterator[_parser.SubPattern]:
    """The parsed patterns in an operation's argument."""
    if isinstance(argument, _parser.SubPattern):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for item in argument:
            yield from _parts(item)
