"""No answer of a destination leads to another one, and no proxy of the environment is used. In a network namespace."""

from __future__ import annotations

from tests.security.namespace import apart


def test_no_redirect_is_followed_and_no_proxy_of_the_environment_is_used(reachable: str) -> None:
    report = apart("turning", reachable, "redirects", seconds=100)

    assert report["hits"] == {}
    assert report["redirected"] == 60
