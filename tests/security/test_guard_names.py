"""What was vetted is what is dialled, whatever names mean later. In a network namespace, see `namespace`."""

from __future__ import annotations

from tests.security.namespace import apart


def test_a_name_that_turns_after_its_message_was_accepted_is_refused_when_it_is_dialled(reachable: str) -> None:
    report = apart("turning", reachable, "names", seconds=100)

    assert report["hits"] == {}
    refusal = "endpoint resolves to a loopback address: 127.0.0.1 (POSTROAD_DESTINATIONS can allow it)"
    assert len(report["turned"]) == 9
    assert all(reasons == [refusal] for reasons in report["turned"].values())
    assert 0 < report["rebound"]["arrived"] < report["rebound"]["accepted"]


def test_ten_thousand_attempts_at_names_that_are_rebound_reach_no_canary() -> None:
    report = apart("rebinding", "10000", seconds=100)

    assert report["hits"] == {}
    assert sum(report["ends"].values()) == 10_000
    assert report["ends"]["200"] == report["arrived"] > 1_000
    for kind in ("loopback", "private", "metadata"):
        assert report["ends"][f"endpoint resolves to a {kind} address"] > 100
