"""What tests in network namespaces need of the network outside."""

from __future__ import annotations

import pytest


@pytest.fixture
def reachable(database_url: str) -> str:
    """The database's URL, if it can be reached from another network."""
    assert "host=/" in database_url.replace("%2F", "/"), (
        "tests in a network namespace reach PostgreSQL by its Unix socket only: run them without TEST_POSTGRES_URL"
    )
    return database_url
