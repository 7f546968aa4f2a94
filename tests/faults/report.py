"""Shows what was found in a run: a table for people, JSON for programs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, fields

import orjson

from tests.faults.checker import Findings, Kind, Recovery, Violation

SHOWN = 5
"""Violations of each kind that the table spells out."""


def as_text(findings: Findings, *, seed: int, commit: str, title: str = "run") -> str:
    """A table of the figures, and the first violations of each kind with their facts."""
    verdict = "clean" if findings.is_clean else f"{len(findings.violations)} violations"
    lines = [f"{title}: {verdict} (seed {seed}, commit {commit})", ""]
    rows = [
        (one.name.replace("_", " "), _shown(getattr(findings.figures, one.name))) for one in fields(findings.figures)
    ]
    width = max(len(name) for name, _ in rows)
    lines += [f"  {name:<{width}}  {value}" for name, value in rows]
    by_kind: dict[Kind, list[Violation]] = defaultdict(list)
    for one in findings.violations:
        by_kind[one.kind].append(one)
    for kind, violations in by_kind.items():
        lines += ["", f"  {kind.value}: {len(violations)}"]
        lines += [f"    {_subject(one)}{one.sentence}" for one in violations[:SHOWN]]
        if len(violations) > SHOWN:
            lines.append(f"    and {len(violations) - SHOWN} more")
    return "\n".join(lines) + "\n"


def as_json(findings: Findings, *, seed: int, commit: str, title: str = "run", most: int = 1_000) -> bytes:
    """The same as a document, with at most so many violations; `counts` has all of them."""
    document = {
        "title": title,
        "seed": seed,
        "commit": commit,
        "clean": findings.is_clean,
        "figures": asdict(findings.figures),
        "counts": {kind.value: count for kind, count in findings.counts.items()},
        "violations": [asdict(one) for one in findings.violations[:most]],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


def _shown(value: object) -> str:
    if isinstance(value, Recovery):
        if not value.messages:
            return "nothing was to be taken over"
        return f"{value.messages} messages, p50 {value.p50:.2f} s, p99 {value.p99:.2f} s, longest {value.longest:.2f} s"
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in sorted(value.items())) or "0"
    if isinstance(value, float):
        return f"{value:.2f}"
    return str(value)


def _subject(violation: Violation) -> str:
    names = [violation.message_id] if violation.message_id is not None else []
    if violation.op is not None:
        names.append(f"(op {violation.op})")
    return " ".join(names) + ": " if names else ""
