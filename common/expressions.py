"""Regular expressions that a user writes: none that could match for ever."""

import re
from collections.abc import Iterator
from math import prod
from re import _constants, _parser  # type: ignore[attr-defined]  # no public function parses

LONGEST_PATTERN = 500

COUNTED = 48
"""Lengths of a repeat without an end, in an id of usual length."""

MOST_WAYS = 4 * COUNTED**4
"""In which a pattern may be laid over a text, four repeats without an end and two `?`: at worst,
over 200 characters, they take two seconds."""

REPEATS = {_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT}


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
        ways = _ways(_parser.parse(pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"no regular expression: {error}") from error
    if group not in groups:
        raise ValueError(f"no group (?P<{group}>…)")
    if ways > MOST_WAYS:
        raise ValueError("could take for ever to match; use fewer * and +, and none inside another")


def _ways(pattern: _parser.SubPattern) -> int:
    """In how many ways a parsed pattern can be laid over a text; no more than one above the most.

    A repeat takes any number of its part, each in any of the part's ways.
    """
    ways = 1
    for operation, argument in pattern:
        inner = [_ways(part) for part in _parts(argument)]
        if operation in REPEATS:
            least, most, _ = argument
            first, count = min(int(least), COUNTED), min(int(most) - int(least) + 1, COUNTED)
            ways *= sum(prod(inner) ** times for times in range(first, first + count))
        else:
            ways *= sum(inner) if operation is _constants.BRANCH else prod(inner)
        ways = min(ways, MOST_WAYS + 1)
    return ways


def _parts(argument: object) -> Iterator[_parser.SubPattern]:
    """The parsed patterns in an operation's argument."""
    if isinstance(argument, _parser.SubPattern):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for item in argument:
            yield from _parts(item)
