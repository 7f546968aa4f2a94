"""What the console sends to browsers beside its pages."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import pytest

from postroad.console.rendering import HERE, STATIC

VENDORED = {"htmx.min.js": "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"}
"""From htmx.org 4.0.1 of npm, `dist/htmx.min.js`."""

TEMPLATES = sorted(HERE.glob("templates/*.html"))


@pytest.mark.parametrize("name", VENDORED)
def test_a_vendored_file_is_what_its_makers_published(name: str) -> None:
    assert sha256((STATIC / name).read_bytes()).hexdigest() == VENDORED[name]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_has_nothing_that_the_policy_forbids(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|javascript:|\|\s*safe\b", text) == (
        ["| safe"] if path.name == "macros.html" else []
    )
    assert not re.findall(r"(?:src|href|action)=\"(?:https?:)?//", text)
