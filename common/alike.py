"""Findings as lines: safe to print, and warnings that many cases share only once."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from rich.text import Text

from common.errors import Finding
from common.names import show, some

SAME, ALIKE = 4, 10
"""Cases of which one line tells what is the same of all, and what differs only in numbers."""

LISTED = 10
"""Ids in such a line."""

NUMBER = re.compile(r"\d+(?:[.,] ?\d+)*")
"""A number, or several as in a list."""


def finding_lines(findings: Iterable[Finding]) -> Iterator[Text]:
    """One line per finding, errors first: case, file, what was found and expected, what to do.

    A warning that many cases share is one line.
    """
    for finding in sorted(told_once(findings), key=lambda f: (f.severity, f.case, f.file)):
        mark = ("✗ ", "bold red") if finding.severity == "error" else ("warning: ", "yellow")
        case = (f"{finding.case}  ", "bold") if finding.case not in {"-", finding.file} else ""
        expected = f"; expected {finding.expected}" if finding.expected else ""
        what = f"{finding.file}: {finding.found}{expected}"
        yield Text.assemble(mark, case, what, (f" → {finding.action}", "cyan"))


def told_once(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, with a warning that differs for many cases only in numbers told of them all.

    Their texts are safe to print on one line: names of files may hold anything.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        is_shared = finding.severity == "warning" and finding.case != "-"
        own = "" if is_shared else f"{finding.case}\n{finding.file}"
        groups.setdefault((own, _kind(finding) if is_shared else finding.found), []).append(finding)
    return [_shown(one) for group in groups.values() for one in _together(group)]


def _shown(finding: Finding) -> Finding:
    return replace(
        finding,
        file=show(finding.file),
        found=show(finding.found),
        expected=show(finding.expected),
        action=show(finding.action),
        case=show(finding.case),
    )


def _together(group: list[Finding]) -> list[Finding]:
    if len(_cases(group)) >= ALIKE:
        return [_of_all(group)]
    same: dict[str, list[Finding]] = {}
    for finding in group:
        same.setdefault(finding.found, []).append(finding)
    parts = [[_of_all(part)] if len(_cases(part)) >= SAME else part for part in same.values()]
    return [finding for part in parts for finding in part]


def _of_all(group: list[Finding]) -> Finding:
    first, cases = group[0], _cases(group)
    files = f"{len(group):,} files of " if len(group) > len(cases) else ""
    where = f"{files}{len(cases):,} cases: {some(cases, LISTED)}"
    is_one = all(finding.found == first.found for finding in group)
    found = first.found if is_one else f"{first.found} (in {first.case})"
    return replace(first, file=where, found=found, case="-")


def _cases(group: list[Finding]) -> list[str]:
    return [*dict.fromkeys(finding.case for finding in group)]


def _kind(finding: Finding) -> str:
    """What a finding says, without its case's own name and numbers."""
    text = f"{finding.found}\n{finding.expected}\n{finding.action}"
    return NUMBER.sub("", text.replace(finding.case, ""))
