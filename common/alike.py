"""Findings as they are told: safe to print, and warnings that many cases share only once."""

import re
from collections.abc import Iterable
from dataclasses import replace

from common.errors import Finding
from common.names import show

MANY = 10
"""Cases of which one line tells what they share."""

EXAMPLES = 3

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


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
    first, cases = group[0], [*dict.fromkeys(finding.case for finding in group)]
    if len(cases) < MANY:
        return group
    where = f"{len(cases):,} cases, such as {', '.join(cases[:EXAMPLES])}"
    is_one = all(finding.found == first.found for finding in group)
    found = first.found if is_one else f"{first.found} (in {first.case})"
    return [replace(first, file=where, found=found, case="-")]


def _kind(finding: Finding) -> str:
    """What a finding says, without its case's own name and numbers."""
    text = f"{finding.found}\n{finding.expected}\n{finding.action}"
    return NUMBER.sub("", text.replace(finding.case, ""))
