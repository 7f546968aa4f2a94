"""Slots are bounded, and no destination can take them all while others might want some."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from postroad.dispatch.slots import Slots


def test_one_destination_fills_half_and_then_its_share_only() -> None:
    slots = Slots(1000)

    taken = sum(slots.reserve(1) for _ in range(2000))

    assert taken == 500
    assert sum(slots.reserve(2) for _ in range(2000)) == slots.share == 100
    assert slots.reserve(3)


def test_a_released_slot_can_be_taken_again() -> None:
    slots = Slots(2)
    assert slots.reserve(1)
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
        assert set(slots.saturated()) == {d for d, n in held.items() if n >= slots.share}
