"""Identifiers: message ids in the order of their making, and random names for keys, tokens and schedules."""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Iterator
from datetime import date, timedelta
from typing import NewType

MessageId = NewType("MessageId", uuid.UUID)
"""A UUIDv7 (RFC 9562, 5.7): 48 bits of Unix milliseconds, then 74 bits that tell the ids of a millisecond apart."""

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""Base58 as Bitcoin writes it, without 0, O, I and l. It is in ASCII order, so texts of one width sort as numbers."""

_EPOCH = date(1970, 1, 1)
_DAY_MS = 86_400_000


class IdMint:
    """Makes the message ids of one process, each greater than the one before unless the clock was set back far.

    Not safe for threads, and not to be shared with a forked child: make one where it is used. Ids of two mints are
    ordered by their milliseconds only.
    """

    def __init__(self) -> None:
        self._ms = -1
        self._tail = 0
        self._random: Iterator[tuple[int, int, int]] = iter(())

    def message_id(self, now_ms: int) -> MessageId:
        """An id for the Unix millisecond now_ms (below 2⁴⁸), greater than every earlier one of this mint.

        Within a millisecond, and while the clock is up to ten seconds behind the last id, the tail grows by a random
        step of 1 to 2³², so that an id does not betray the next. A tail that is used up borrows from the next one. A
        clock that had been further ahead is not followed, and ids go back with it: its days may have no partition yet.
        """
        high, low, step = next(self._random, None) or self._more_random()
        tail = self._tail + step + 1
        if now_ms > self._ms or tail > _LARGEST_TAIL or self._ms - now_ms > _LONGEST_STEP_BACK_MS:
            self._ms = now_ms if self._ms - now_ms > _LONGEST_STEP_BACK_MS else max(now_ms, self._ms + 1)
            tail = (high & 0x1FF) << 64 | low  # The 74th bit stays clear: at least 2⁴¹ ids fit into what is left.
        self._tail = tail
        return MessageId(uuid.UUID(int=self._ms << 80 | (tail >> 62) << 64 | tail & _LOW_62_BITS | _VERSION_7))

    def _more_random(self) -> tuple[int, int, int]:
        # One system call for 292 ids: asking the kernel for each would cost more than the rest of the id.
        self._random = struct.iter_unpack(">HQI", os.urandom(292 * 14))
        return next(self._random)


_LARGEST_TAIL = (1 << 74) - 1
_LONGEST_STEP_BACK_MS = 10_000
_LOW_62_BITS = (1 << 62) - 1
_VERSION_7 = 7 << 76 | 0b10 << 62
_TWO_PAIRS, _FOUR_PAIRS = 3364**2, 3364**4
_VERSION_7_MASK = 15 << 76 | 0b11 << 62


def message_text(message_id: uuid.UUID) -> str:
    """The id as the API shows it: `msg_` and 22 characters of base58. Texts sort as their ids do."""
    # In few steps of long numbers, which are slow, to parts that are short ones.
    rest, low = divmod(message_id.int, _FOUR_PAIRS)
    high, middle = divmod(rest, _FOUR_PAIRS)
    h, i = divmod(high, _TWO_PAIRS)
    j, k = divmod(middle, _TWO_PAIRS)
    m, n = divmod(low, _TWO_PAIRS)
    p = _PAIRS
    return (
        f"msg_{p[h]}{p[i // 3364]}{p[i % 3364]}{p[j // 3364]}{p[j % 3364]}{p[k // 3364]}{p[k % 3364]}"
        f"{p[m // 3364]}{p[m % 3364]}{p[n // 3364]}{p[n % 3364]}"
    )


def parse_message_id(text: str) -> MessageId | None:
    """The id that message_text shows as this text, or None for any text that shows no id of a mint."""
    if len(text) != 26 or not text.startswith("msg_"):
        return None
    value = 0
    try:
        for i in range(4, 26, 2):
            value = value * 3364 + _PAIR_VALUES[text[i : i + 2]]
    except KeyError:  # A character outside the alphabet: an ordinary typing error.
        return None
    # Without the upper bound, which is the last day that Python has a date for, day_of could fail on a user's text.
    if value & _VERSION_7_MASK != _VERSION_7 or value > _LARGEST_ID:
        return None
    return MessageId(uuid.UUID(int=value))


_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_PAIR_VALUES = {pair: value for value, pair in enumerate(_PAIRS)}


def day_of(message_id: uuid.UUID) -> date:
    """The UTC day of the id's timestamp: the day whose partition holds the message."""
    return _EPOCH + timedelta(days=(message_id.int >> 80) // _DAY_MS)


def first_id_of(day: date) -> uuid.UUID:
    """The lower bound of the ids of a day from 1970 on: midnight UTC as the timestamp, all other bits zero.

    It has no version bits and so is no message id itself, but none of that day is smaller.
    """
    return uuid.UUID(int=(day - _EPOCH).days * _DAY_MS << 80)


_LARGEST_ID = first_id_of(date.max).int + (_DAY_MS << 80) - 1


def random_text(prefix: str) -> str:
    """The prefix and 28 characters of base58, drawn evenly from the operating system's generator (164 bits).

    Good enough for signing keys. The generator is read 4 KiB ahead, since every attempt takes one text; a forked child
    starts with nothing read.
    """
    return prefix + _random_characters.take()


class _RandomCharacters:
    """Base58 characters that no text has used yet."""

    def __init__(self) -> None:
        self._unused = ""
        self._position = 0

    def take(self) -> str:
        start = self._position
        text = self._unused[start : start + 28]
        if len(text) < 28:
            # 232 is the largest multiple of 58 in a byte: leaving out the bytes from there on keeps every character
            # equally likely.
            self._unused = os.urandom(4096).translate(_BYTE_TO_CHARACTER, delete=bytes(range(232, 256))).decode()
            start, text = 0, self._unused[:28]
        self._position = start + 28
        return text

    def forget(self) -> None:
        self._unused = ""


_BYTE_TO_CHARACTER = bytes(ord(_ALPHABET[byte % 58]) for byte in range(256))
_random_characters = _RandomCharacters()
os.register_at_fork(after_in_child=_random_characters.forget)
