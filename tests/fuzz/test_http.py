"""Whatever comes in a field of a request, the answer says what is wrong with it, and is never our own failure."""

from __future__ import annotations

import logging
from itertools import islice
from random import Random

import pytest

from tests.conftest import Running, Serve
from tests.fuzz.requests import SQL, Texts, many_odd_texts, one_odd_text
from tests.fuzz.whole import answers

MANY = 700


@pytest.fixture
async def patient(serve: Serve) -> Running:
    """A server that counts no calls."""
    return await serve(max_calls_per_second=0)


async def test_what_means_something_to_a_database_means_nothing_in_a_field(
    patient: Running, caplog: pytest.LogCaptureFixture
) -> None:
    document = (await patient.http.get("/openapi.json")).json()

    found = await answers(patient.http, one_odd_text(document, Texts(SQL, at_a_time=3)))

    assert found.wrong == []
    assert found.statuses[200] + found.statuses[201] > 100
    assert found.statuses[400] > 100
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert (await patient.http.post("/v2/publish/http://127.0.0.1:9/after", content=b"x")).status_code == 201


async def test_odd_texts_in_many_fields_are_borne(patient: Running, caplog: pytest.LogCaptureFixture) -> None:
    document = (await patient.http.get("/openapi.json")).json()
    random = Random(5)

    found = await answers(patient.http, islice(iter(lambda: many_odd_texts(document, random), None), MANY))

    assert found.wrong == []
    assert found.statuses[400] > MANY // 4
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
