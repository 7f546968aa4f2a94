"""Slots are bounded, and no destination can take them all while others might want some."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.dispatch.slots import Slots


def test_each_destination_gets_half_of_what_the_others_leave() -> None:
    slots = Slots(1000)

    taken = [sum(slots.reserve(destination) for _ in range(2000)) for destination in range(4)]

    assert taken == [500, 250, 125, 63]


@pytest.mark.parametrize("total", [2, 3, 16, 1000])
def test_however_many_hang_there_is_a_slot_for_the_next_one(total: int) -> None:
    slots = Slots(total)
    sizes = [sum(slots.reserve(destination) for _ in range(total)) for destination in range(3)]

    assert sizes[0] == (total + 1) // 2
    assert slots.free >= total // 8
    assert total < 16 or slots.reserve(3)


def test_a_claim_for_anybody_leaves_as_much_as_it_could_give_to_one() -> None:
    slots = Slots(100)
    for _ in range(20):
        slots.take(1)
    for _ in range(slots.open_to_any):
        slots.take(1)

    assert slots.in_use == slots.free == 50
    assert slots.open_to_any == 0
    assert slots.saturated() == [1]


def test_a_released_slot_can_be_taken_again() -> None:
    slots = Slots(2)
    assert slots.reserve(1)
    assert not slots.reserve(1)
    assert slots.reserve(2)
    assert not slots.reserve(3)

    slots.release(1)

    assert slots.reserve(3)


@given(st.integers(1, 200), st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=400))
def test_the_counts_always_agree(total: int, steps: list[tuple[bool, int]]) -> None:
    slots = Slots(total)
    held: dict[int, int] = {}
    for takes, destination in steps:
        if takes:
            if slots.reserve(destination):
                held[destination] = held.get(destination, 0) + 1
        elif held.get(destination):
            slots.release(destination)
            held[destination] -= 1

        assert slots.in_use == sum(held.values()) <= total
        assert slots.free == total - slots.in_use
        assert set(slots.saturated()) == {d for d, n in held.items() if n and n >= slots.free}
