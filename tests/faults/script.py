"""How the receiver of a run answers: by a table and a seed, without remembering anything."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from itertools import accumulate


class Mood(Enum):
    """A way to answer, well or badly."""

    OK = auto()
    SLOW = auto()
    """200 after up to two seconds."""
    LARGE = auto()
    """200 with a body of hundreds of kilobytes."""
    TRICKLE = auto()
    """200, a byte at a time."""
    ERROR = auto()
    """500."""
    LATER = auto()
    """429 that asks for a second."""
    NEVER = auto()
    """489: not to be tried again."""
    REDIRECT = auto()
    """302 to a path that nobody may ask for."""
    RESET_AT_HEAD = auto()
    """A reset as soon as the head of the request is there."""
    RESET = auto()
    """A reset when the whole request is there."""
    HALF = auto()
    """The end of the connection in the midst of an answer."""


_CALM = {Mood.OK: 1}
_CHAOTIC = {
    Mood.OK: 800, Mood.SLOW: 30, Mood.LARGE: 15, Mood.TRICKLE: 15, Mood.ERROR: 60, Mood.LATER: 20, Mood.NEVER: 10,
    Mood.REDIRECT: 10, Mood.RESET_AT_HEAD: 10, Mood.RESET: 15, Mood.HALF: 15,
}  # fmt: skip
_REPORTS = {Mood.OK: 90, Mood.SLOW: 2, Mood.ERROR: 6, Mood.RESET: 2}
PROFILES: dict[str, tuple[Mapping[Mood, int], Mapping[Mood, int]]] = {
    "calm": (_CALM, _CALM),
    "chaotic": (_CHAOTIC, _REPORTS),
}
"""For each profile the weights of moods, those for messages and those for callbacks."""

_PACE = {"queue": (0.002, 0.008), "flow": (0.005, 0.02), "slow": (0.2, 2.0)}
"""Least and most seconds of a good answer: where order and limits count, long enough for an overlap to show."""
_PACES = {"calm": (0.005, 0.05), "chaotic": (0.001, 0.03)}


@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt is answered: how, after how many seconds, and for sizes a number from 0 to 1."""

    mood: Mood
    pause: float
    size: float


class Script:
    """The answers of a run. Whoever asks for the same attempt twice gets the same answer."""

    def __init__(self, seed: int, profile: str) -> None:
        self._seed = seed
        self._profile = profile
        self._messages, self._reports = (_Table(weights) for weights in PROFILES[profile])

    def answer(self, what: str, retried: int, kind: str | None = None) -> Answer:
        """The answer to an attempt of what goes by this name; `kind` is that of its body, as far as it is known."""
        table = self._reports if kind == "report" else self._messages
        digest = hashlib.blake2b(f"{self._seed}/{what}/{retried}".encode(), digest_size=12).digest()
        mood_at, pause_at, size = (int.from_bytes(digest[n : n + 4]) / 2**32 for n in (0, 4, 8))
        mood = table.at(mood_at)
        least, most = _PACE.get(kind or "", _PACES[self._profile])
        if mood is Mood.SLOW:
            least, most = 0.1, 0.4 if kind == "queue" else 2.0
        return Answer(mood, least + (most - least) * pause_at, size)


class _Table:
    def __init__(self, weights: Mapping[Mood, int]) -> None:
        total = sum(weights.values())
        self._steps = list(zip((upto / total for upto in accumulate(weights.values())), weights, strict=True))

    def at(self, point: float) -> Mood:
        return next(mood for upto, mood in self._steps if point < upto)
