"""What is installed is enough: the wheel brings its migrations along and runs outside the checkout."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.conftest import TOKEN
from tests.receiver import Receiver

ROOT = Path(__file__).parents[1]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with nothing but what the wheel holds."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    return tmp_path / "site"


async def test_the_wheel_migrates_and_delivers_outside_the_checkout(
    site: Path, tmp_path: Path, receiver: Receiver
) -> None:
    start = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import postroad.cli; "
        "print(postroad.cli.__file__, flush=True); postroad.cli.main()"
    )

    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", start, "dev", "--port", "0", "--data-dir", "data",
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None
    origin = (await server.stdout.readline()).decode()
    assert origin.startswith(str(tmp_path))
    url = None
    while url is None and (line := (await server.stdout.readline()).decode()):
        url = (re.search(r"running at (http://\S+)", line) or [None, None])[1]
    assert url is not None, (await server.communicate())[1].decode()
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        answer = await client.post(f"{url}/v2/publish/{receiver.url()}", content=b"from the wheel")
        page = await client.get(f"{url}/console")
        files = re.findall(r'"(/console/static/[^"]+)"', page.text)
        assert {file.rpartition(".")[2][:2] for file in files} == {"cs", "js", "sv"}
        assert [(await client.get(url + file)).status_code for file in files] == [200] * len(files)
    assert answer.status_code == 201
    assert (await receiver.next_request()).body == b"from the wheel"
    server.send_signal(signal.SIGTERM)
    await server.communicate()
    assert server.returncode == 0
