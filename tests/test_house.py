"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
STATEMENTS = sorted((ROOT / "src").rglob("*.sql"))
NAMELESS = {
    "utils",
    "util",
    "helpers",
    "helper",
    "managers",
    "manager",
    "common",
    "base",
    "misc",
    "services",
    "service",
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_a_module_is_short_named_for_what_lives_there_and_says_what_that_is(path: Path) -> None:
    text = path.read_text()

    assert len(text.splitlines()) <= 400
    assert path.stem not in NAMELESS
    assert ast.get_docstring(ast.parse(text)), "a module opens with one sentence"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_public_names_say_what_they_are_for(path: Path) -> None:
    """A docstring on every public function and class, methods of protocols and overrides of foreign classes aside."""
    silent = [
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]

    assert silent == []


@pytest.mark.parametrize("path", STATEMENTS, ids=lambda path: path.name)
def test_a_hot_statement_keeps_to_the_rules(path: Path) -> None:
    text = re.sub(r"--.*", "", path.read_text()).lower()

    assert not re.search(r"\bin\s*\(\s*select[^)]*limit[^)]*for update", text), "LIMIT with FOR UPDATE needs a CTE"
    assert "pg_advisory_lock" not in text
    assert not re.search(r"\bset\s+(?!local)\w+\s*(=|to)\s", text.partition("update")[0]), "SET needs LOCAL"
    for cte in re.findall(r"(\w+) as materialized \(\s*select[^;]*?skip locked", text):
        assert cte
    if "skip locked" in text and "update deliveries" in text:
        assert "materialized" in text


def test_every_hot_statement_is_used() -> None:
    code = "\n".join(path.read_text() for path in SOURCES)

    unused = [path.stem for path in STATEMENTS if f'statement("{path.stem}")' not in code]

    assert unused == []


def test_no_code_reads_the_clock_but_the_clock() -> None:
    """Instants come from the database, or from `clock`; durations from the monotonic clock."""
    offenders = [
        path.name
        for path in SOURCES
        if re.search(r"datetime\.now\(|time\.time\(|utcnow", path.read_text()) and path.name != "clock.py"
    ]

    assert offenders == []


def test_importing_the_core_loads_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; import postroad.domain.publication, postroad.domain.callback, postroad.domain.log; "
        "print(*{m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names))"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    # The latter is there when a run watches the logs of all processes.
    assert {name for name in modules if not name.startswith("_")} - {"sitecustomize"} == {"postroad"}


DOCUMENTS = ["README", "CHANGELOG", "CONTRIBUTING", "SECURITY"] + [
    f"docs/{name}"
    for name in (
        "architecture",
        "as-code",
        "cli",
        "console",
        "glossary",
        "lifecycle",
        "operations",
        "compatibility",
        "reliability",
        "security",
        "status",
        "testing",
    )
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_exists_and_its_links_lead_somewhere(name: str) -> None:
    path = ROOT / f"{name}.md"
    text = path.read_text()

    assert len(text) > 200
    for link in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text):
        assert (path.parent / link).exists(), link
