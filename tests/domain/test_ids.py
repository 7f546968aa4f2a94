"""Identifiers: order, width, round trips and randomness."""

import os
import string
import uuid
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.domain.ids import IdMint, day_of, first_id_of, message_text, parse_message_id, random_text

BASE58 = set(string.digits + string.ascii_letters) - set("0OIl")
LAST_MS = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp() * 1000)
milliseconds = st.integers(0, LAST_MS)
days = st.dates(min_value=date(1970, 1, 1))


def reference_base58(number: int) -> str:
    """One digit at a time, from the alphabet of the Bitcoin wiki."""
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    digits = []
    for _ in range(22):
        number, digit = divmod(number, 58)
        digits.append(alphabet[digit])
    return "".join(reversed(digits))


@given(milliseconds)
def test_a_message_id_is_a_uuid7_of_its_millisecond(now_ms: int) -> None:
    message_id = IdMint().message_id(now_ms)
    assert (message_id.version, message_id.variant) == (7, uuid.RFC_4122)
    assert message_id.int >> 80 == now_ms


@given(milliseconds, st.lists(st.integers(0, 10_000), min_size=2, max_size=50))
def test_ids_of_one_mint_ascend_though_the_clock_goes_back_by_seconds(start: int, steps: list[int]) -> None:
    mint = IdMint()
    ids = [mint.message_id(start + step) for step in steps]
    assert all(earlier < later for earlier, later in pairwise(ids))


def test_a_clock_that_was_hours_ahead_is_not_followed() -> None:
    mint = IdMint()
    mint.message_id(100_000_000)
    assert mint.message_id(1_000_000).int >> 80 == 1_000_000


def test_ids_ascend_over_many_reads_of_the_generator_within_one_millisecond() -> None:
    mint = IdMint()
    ids = [mint.message_id(1_700_000_000_000) for _ in range(5_000)]
    assert ids == sorted(set(ids))
    assert {message_id.int >> 80 for message_id in ids} == {1_700_000_000_000}


def test_a_tail_that_is_used_up_borrows_from_the_next_millisecond() -> None:
    mint = IdMint()
    mint.message_id(1000)
    mint._tail = (1 << 74) - 1
    borrowed = [mint.message_id(1000) for _ in range(3)]
    mint._tail = (1 << 74) - 1
    borrowed += [mint.message_id(1001), mint.message_id(1003)]
    assert [message_id.int >> 80 for message_id in borrowed] == [1001, 1001, 1001, 1002, 1003]
    assert borrowed == sorted(set(borrowed))
    assert {message_id.version for message_id in borrowed} == {7}


def test_two_mints_do_not_make_the_same_ids() -> None:
    one, other = IdMint(), IdMint()
    assert not {one.message_id(5) for _ in range(1000)} & {other.message_id(5) for _ in range(1000)}


def test_an_id_does_not_betray_the_next_one() -> None:
    mint = IdMint()
    ids = [mint.message_id(5).int for _ in range(1000)]
    assert len({later - earlier for earlier, later in pairwise(ids)}) > 990


@given(st.uuids())
def test_the_text_is_base58_of_fixed_width(some_id: uuid.UUID) -> None:
    assert message_text(some_id) == "msg_" + reference_base58(some_id.int)


@given(milliseconds)
def test_a_text_reads_back_as_its_id(now_ms: int) -> None:
    message_id = IdMint().message_id(now_ms)
    assert parse_message_id(message_text(message_id)) == message_id


@given(st.lists(st.uuids(), min_size=2))
def test_texts_sort_as_their_ids(ids: list[uuid.UUID]) -> None:
    assert [message_text(i) for i in sorted(ids)] == sorted(message_text(i) for i in ids)


@given(
    st.text() | st.text().map("msg_".__add__) | st.text(sorted(BASE58), min_size=22, max_size=22).map("msg_".__add__)
)
def test_any_text_is_either_an_id_of_its_own_or_none(text: str) -> None:
    message_id = parse_message_id(text)
    assert message_id is None or message_text(message_id) == text


def malformed() -> list[str]:
    good = message_text(uuid.UUID("018bcfe5-6800-7d3a-9b1c-5e8f7a6b4c2d"))
    after_the_last_day = (LAST_MS + 1000) << 80 | 7 << 76 | 0b10 << 62
    return [
        "",
        "msg_",
        good[:-1],
        good + "1",
        good + "\n",
        good.upper(),
        "dlq_" + good[4:],
        good[:-1] + "0",
        good[:-1] + "l",
        good[:-2] + "é1",
        good[:10] + " " + good[11:],
        "msg_" + "z" * 22,  # 58²² - 1 does not fit into 128 bits.
        message_text(uuid.UUID(int=0)),
        message_text(uuid.UUID("9f1c2d3e-4b5a-4c6d-8e7f-0a1b2c3d4e5f")),
        message_text(uuid.UUID(int=after_the_last_day)),
    ]


@pytest.mark.parametrize("text", malformed())
def test_a_malformed_id_is_none(text: str) -> None:
    assert parse_message_id(text) is None


@given(days, st.integers(0, 86_399_999))
def test_the_ids_of_a_day_lie_between_its_first_id_and_that_of_the_next(day: date, ms: int) -> None:
    midnight_ms = (day - date(1970, 1, 1)).days * 86_400_000
    message_id = IdMint().message_id(midnight_ms + ms)
    assert day_of(message_id) == day
    assert first_id_of(day) < message_id
    if day < date.max:
        assert message_id < first_id_of(day + timedelta(days=1))


def test_the_first_id_of_a_day_is_midnight_utc_and_zeros() -> None:
    assert first_id_of(date(2026, 1, 2)) == uuid.UUID("019b7c01-0400-0000-0000-000000000000")
    midnight = datetime(2026, 1, 2, tzinfo=UTC)
    assert first_id_of(date(2026, 1, 2)).int == int(midnight.timestamp() * 1000) << 80


@given(st.sampled_from(["sig_", "jwt_", "scd_", ""]))
def test_random_texts_are_a_prefix_and_28_characters_of_base58(prefix: str) -> None:
    text = random_text(prefix)
    assert text.startswith(prefix)
    assert len(text) == len(prefix) + 28
    assert set(text[len(prefix) :]) <= BASE58


def test_random_texts_do_not_repeat_and_use_every_character_evenly() -> None:
    texts = [random_text("") for _ in range(20_000)]
    assert len(set(texts)) == 20_000
    assert sum(one[-1] == other[0] for one, other in pairwise(texts)) < 1000
    drawn = "".join(texts)
    expected = len(drawn) / 58
    # Nine standard deviations, so it fails by chance once in 10¹⁷ runs; taking bytes modulo 58 would be off by 110.
    assert all(abs(drawn.count(character) - expected) < 9 * expected**0.5 for character in BASE58)


def test_a_forked_child_does_not_repeat_its_parents_texts() -> None:
    random_text("")
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writable, random_text("").encode())
        os._exit(0)
    os.waitpid(child, 0)
    of_the_child = os.read(readable, 100).decode()
    os.close(readable)
    os.close(writable)
    assert len(of_the_child) == 28
    assert of_the_child != random_text("")
