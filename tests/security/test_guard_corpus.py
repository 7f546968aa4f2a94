"""No form of a URL leads astray: canaries on loopback, link-local and private addresses are never connected to.

All of it runs in a network namespace of its own, see `namespace`; honest addresses in it show that requests are sent.
"""

from __future__ import annotations

from typing import Any

from tests.security.corpus import PRIVATE
from tests.security.namespace import apart

WAYS = {
    "publish",
    "enqueue",
    "batch",
    "url_group",
    "callback",
    "failure_callback",
    "callback_of_a_callback",
    "schedule",
    "schedule_callback",
    "stored",
    "DLQ retry",
    "DLQ retry with a callback",
}


def all_of(report: dict[str, Any], way: str) -> int:
    counted: dict[str, int] = report["ways"][way]
    return sum(counted.values())


def test_no_form_of_a_url_leads_astray_by_any_way_in(reachable: str) -> None:
    report = apart("astray", reachable, "public", "1", seconds=110)

    assert report["hits"] == {}
    assert report["forms"] >= 300
    assert set(report["ways"]) == WAYS
    assert all(all_of(report, way) >= 0.97 * report["forms"] for way in WAYS)
    # All that is refused at any time is refused when it is asked for, but for names that are not at hand at a retry.
    for way in WAYS - {"stored", "DLQ retry", "DLQ retry with a callback"}:
        assert set(report["ways"][way]) == {"refused"}, way
    assert set(report["ways"]["stored"]) == {"refused"}
    for way in ("publish", "enqueue", "batch", "url_group", "callback", "failure_callback", "schedule", "stored"):
        assert report["honest"][f"/honest/{way}"] >= 2
    assert report["honest"]["/honest/retry"] == 2


def test_where_private_addresses_are_allowed_nothing_else_is(reachable: str) -> None:
    report = apart("astray", reachable, "lan", "8", seconds=110)

    assert {place.partition(" ")[0] for place in report["hits"]} == {PRIVATE}
