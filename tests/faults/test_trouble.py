"""PostgreSQL in trouble, as far as that takes neither root nor long; `python -m tests.faults.trouble` does the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.troubles_catalogue import TROUBLES
from tests.faults.troubles_figures import KNOWN_ALREADY, Row, suffer
from tests.faults.troubles_stage import Stage, staged

pytestmark = pytest.mark.asyncio(loop_scope="module")

IN_MEMORY = Path("/dev/shm").is_dir()

A_HANDFUL = 12
"""Lines of the log about one trouble, those about its end included, and single attempts aside."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    """One node for all troubles, one after the other, so that what one leaves behind is found by the next."""
    async with staged(rate=50, memory=IN_MEMORY) as one:
        yield one


async def suffered(stage: Stage, name: str, seconds: float = 0.0) -> Row:
    """The row of a trouble in which every promise was kept."""
    row = await suffer(stage, TROUBLES[name], seconds=seconds, lead_s=0.5)
    assert row.broken == (), row
    assert row.acknowledged > 0, row
    about_attempts = sum(count for said, count in row.log_samples.items() if said.endswith(KNOWN_ALREADY))
    assert row.log_lines - about_attempts <= A_HANDFUL, row.log_samples
    return row


async def test_a_server_that_dies_at_once_and_comes_back_loses_nothing(stage: Stage) -> None:
    row = await suffered(stage, "immediate")

    assert row.answers["503"] > 0


async def test_connections_that_are_ended_again_and_again_lose_nothing(stage: Stage) -> None:
    await suffered(stage, "terminated", seconds=2)


async def test_a_server_that_may_only_be_read_accepts_nothing(stage: Stage) -> None:
    row = await suffered(stage, "read-only", seconds=1)

    assert row.answers["503"] > 0


async def test_what_stands_still_for_a_moment_goes_on(stage: Stage) -> None:
    row = await suffered(stage, "half-open-5", seconds=1.5)

    assert set(row.answers) <= {"201", "waited"}
    assert row.answers["waited"] > 0


async def test_a_commit_with_a_warning_is_not_acknowledged(stage: Stage) -> None:
    row = await suffered(stage, "disturbed", seconds=1)

    assert row.answers["503"] > 0
    assert row.stored_after_all > 0, "the server has not called a disturbed commit a success"
