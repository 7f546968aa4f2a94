"""Points on a message's way where a test can have the process die or freeze. They do nothing unless one is armed."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping
from enum import StrEnum
from random import Random

from postroad.errors import Misconfigured

VARIABLE = "POSTROAD_FAULTS"
"""What to do where: `after_claim_commit:kill@0.01,before_first_byte:pause`. Only tests set it."""

SEED_VARIABLE = "POSTROAD_FAULTS_SEED"

_SIGNALS = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP}
_log = logging.getLogger(__name__)


class Point(StrEnum):
    """Where it is decided what a crash leaves behind."""

    BEFORE_PUBLISH_COMMIT = "before_publish_commit"
    AFTER_PUBLISH_COMMIT = "after_publish_commit"
    AFTER_CLAIM_COMMIT = "after_claim_commit"
    BEFORE_FIRST_BYTE = "before_first_byte"
    AFTER_RESPONSE = "after_response"
    BEFORE_SETTLE_COMMIT = "before_settle_commit"
    AFTER_SETTLE_COMMIT = "after_settle_commit"
    BEFORE_TICK_COMMIT = "before_tick_commit"
    AFTER_TICK_COMMIT = "after_tick_commit"


_armed: dict[Point, tuple[signal.Signals, float]] = {}
_random = Random()  # noqa: S311  it draws faults


def reached(point: Point) -> None:
    """Say that the process is at this point; it may not be alive afterwards."""
    if _armed:
        _strike(point)


def arm(environment: Mapping[str, str]) -> None:
    """Arm the points that the environment names, and no others. Raises `Misconfigured`."""
    _armed.clear()
    for text in filter(None, environment.get(VARIABLE, "").split(",")):
        name, _, rest = text.strip().partition(":")
        action, _, probability = rest.partition("@")
        try:
            _armed[Point(name)] = _SIGNALS[action], float(probability or 1)
        except (KeyError, ValueError):
            raise Misconfigured(
                f"{VARIABLE}: {text!r} is not a point ({', '.join(Point)}), a colon, kill or pause, and perhaps an @ "
                "with a probability"
            ) from None
    if _armed:
        _random.seed(environment.get(SEED_VARIABLE))
        _log.warning("this process breaks down on purpose: %s", ", ".join(_armed))


def _strike(point: Point) -> None:
    fault = _armed.get(point)
    if fault is not None and _random.random() < fault[1]:
        os.kill(os.getpid(), fault[0])
