"""Fault points: off unless armed, and then exactly where they say."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from postroad import faults
from postroad.errors import Misconfigured
from postroad.faults import Point


@pytest.mark.parametrize("text", ["nowhere:kill", "after_response", "after_response:trip", "after_response:kill@often"])
def test_what_cannot_be_armed_is_said(text: str) -> None:
    with pytest.raises(Misconfigured, match="POSTROAD_FAULTS"):
        faults.arm({faults.VARIABLE: text})
    faults.arm({})


async def test_only_the_armed_point_strikes() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c",
        "from postroad import faults; from postroad.faults import Point; import os; faults.arm(os.environ);"
        "[faults.reached(point) for point in Point if point is not Point.AFTER_RESPONSE]; print('alive', flush=True);"
        "faults.reached(Point.AFTER_RESPONSE); print('still alive', flush=True)",
        env=os.environ | {faults.VARIABLE: f"{Point.AFTER_RESPONSE}:kill"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    output, _ = await process.communicate()

    assert output == b"alive\n"
    assert process.returncode == -signal.SIGKILL
