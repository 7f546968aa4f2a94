"""URL groups: what becomes of endpoints, and what may be a name or a default header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.domain.limits import Limits
from postroad.domain.message import Options
from postroad.domain.url_group import (
    MAX_FIELDS,
    Endpoint,
    Reference,
    is_group_name,
    parse_default_headers,
    parse_endpoint,
    parse_group_name,
    remaining,
    upserted,
)
from postroad.errors import InvalidDestination, InvalidField, InvalidValue, LimitExceeded, Refused

X, Y, Z = "https://x.example", "https://y.example", "https://z.example"

endpoint = st.builds(Endpoint, st.sampled_from([X, Y, Z, f"{X}/2"]), st.none() | st.sampled_from("abcd"))
given_lists = st.lists(endpoint, max_size=8)
groups = given_lists.map(lambda listed: upserted((), listed))


@pytest.mark.parametrize(
    ("before", "others", "after"),
    [
        pytest.param([], [(X, None)], [(X, None)], id="the first one"),
        pytest.param([(X, "a")], [(Y, "b"), (Z, None)], [(X, "a"), (Y, "b"), (Z, None)], id="new ones go to the end"),
        pytest.param([(X, "a"), (Y, "b")], [(X, "a")], [(X, "a"), (Y, "b")], id="the same again changes nothing"),
        pytest.param([(X, "a"), (Y, "b")], [(X, "c")], [(X, "c"), (Y, "b")], id="a known URL is renamed"),
        pytest.param([(X, None), (Y, "b")], [(X, "a")], [(X, "a"), (Y, "b")], id="a nameless one is named"),
        pytest.param([(X, "a")], [(X, None)], [(X, "a")], id="no name takes no name away"),
        pytest.param([(X, "a"), (Y, "b")], [(Z, "a")], [(Z, "a"), (Y, "b")], id="a known name is repointed"),
        pytest.param([(X, "a"), (Y, "b"), (Z, "c")], [(X, "c")], [(Y, "b"), (X, "c")], id="... and takes over a URL"),
        pytest.param([(X, "a"), (Y, None)], [(Y, "a")], [(Y, "a")], id="... also a nameless one"),
        pytest.param([(X, "a"), (Y, "b")], [(Y, "a"), (X, "b")], [(X, "b"), (Y, "a")], id="names change places"),
        pytest.param([(X, "a")], [(X, None), (Y, "a")], [(X, None), (Y, "a")], id="a name goes over to a new one"),
        pytest.param([], [(X, "a"), (Y, "a")], [(X, None), (Y, "a")], id="of one name for two the last counts"),
        pytest.param([(X, None)], [(Y, None)], [(X, None), (Y, None)], id="nameless ones are not alike"),
        pytest.param([], [(X, "a"), (X, "b")], [(X, "b")], id="the last name counts"),
    ],
)
def test_endpoints_are_added_renamed_and_repointed(
    before: list[tuple[str, str | None]], others: list[tuple[str, str | None]], after: list[tuple[str, str | None]]
) -> None:
    assert upserted(made(before), made(others)) == made(after)


@given(groups, given_lists)
def test_no_two_endpoints_of_a_group_share_a_url_or_a_name(group: tuple[Endpoint, ...], others: list[Endpoint]) -> None:
    after = upserted(group, others)

    names = [one.name for one in after if one.name is not None]
    assert len({one.url for one in after}) == len(after)
    assert len(set(names)) == len(names)


@given(groups, given_lists)
def test_endpoints_that_are_not_spoken_of_stay_as_they_are_and_in_order(
    group: tuple[Endpoint, ...], others: list[Endpoint]
) -> None:
    urls, names = {one.url for one in others}, {one.name for one in others if one.name is not None}
    untouched = [one for one in group if one.url not in urls and one.name not in names]

    after = upserted(group, others)

    assert [one for one in after if one in untouched] == untouched


@given(groups, given_lists)
def test_no_url_that_is_given_is_lost(group: tuple[Endpoint, ...], others: list[Endpoint]) -> None:
    assert {one.url for one in others} <= {one.url for one in upserted(group, others)}


@given(groups, st.lists(endpoint, max_size=8, unique_by=(lambda one: one.url, lambda one: one.name or one.url)))
def test_endpoints_that_do_not_contradict_each_other_have_the_names_that_are_given(
    group: tuple[Endpoint, ...], others: list[Endpoint]
) -> None:
    after = upserted(group, others)

    assert {one for one in others if one.name is not None} <= set(after)
    assert upserted(after, others) == after


@pytest.mark.parametrize(
    ("reference", "left"),
    [
        (Reference(X, None), [(Y, "b"), (Z, None)]),
        (Reference(None, "a"), [(Y, "b"), (Z, None)]),
        (Reference(X, "a"), [(Y, "b"), (Z, None)]),
        (Reference(X, "b"), [(X, "a"), (Y, "b"), (Z, None)]),
        (Reference(Z, "a"), [(X, "a"), (Y, "b"), (Z, None)]),
        (Reference(Z, None), [(X, "a"), (Y, "b")]),
        (Reference(None, "c"), [(X, "a"), (Y, "b"), (Z, None)]),
        (Reference(f"{X}/", None), [(X, "a"), (Y, "b"), (Z, None)]),
    ],
    ids=repr,
)
def test_an_endpoint_is_removed_by_url_by_name_or_by_both(
    reference: Reference, left: list[tuple[str, str | None]]
) -> None:
    assert remaining(made([(X, "a"), (Y, "b"), (Z, None)]), [reference]) == made(left)


@given(groups)
def test_a_group_that_loses_what_it_has_is_empty(group: tuple[Endpoint, ...]) -> None:
    assert remaining(group, [Reference(one.url, one.name) for one in group]) == ()
    assert remaining(group, []) == group


@pytest.mark.parametrize("name", ["a", "-a", "_a", ".a", "A.b-c_9", "x" * 256])
def test_a_group_name_has_letters_digits_dashes_underscores_and_dots(name: str) -> None:
    assert is_group_name(name)
    assert parse_group_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "a\n", "a:b", "a,b", "x" * 257, "٣"])
def test_another_name_is_refused(name: str) -> None:
    assert not is_group_name(name)
    with pytest.raises(InvalidValue):
        parse_group_name(name)


@pytest.mark.parametrize(("name", "expected"), [("", None), ("a name", "a name"), ("é 🙂", "é 🙂"), ("x" * 256,) * 2])
def test_an_endpoint_may_have_any_printable_name_or_none(name: str, expected: str | None) -> None:
    assert parse_endpoint(X, name, path="p") == Endpoint(X, expected)


@pytest.mark.parametrize(
    ("url", "name", "field"),
    [
        ("", "", "p.url"),
        ("x.example", "", "p.url"),
        ("ftp://x.example", "", "p.url"),
        ("https://user@x.example", "", "p.url"),
        (X, "x" * 257, "p.name"),
        (X, "a\x00", "p.name"),
        (X, "a\nb", "p.name"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused_with_the_field_that_is_wrong(url: str, name: str, field: str) -> None:
    with pytest.raises((InvalidDestination, InvalidField)) as refused:
        parse_endpoint(url, name, path="p")

    assert str(refused.value).startswith(f"invalid {field}: ")


def test_default_headers_are_kept_in_lower_case_and_read_as_a_publish_reads_them() -> None:
    fields, options = defaults(
        ("Content-Type", "text/plain"),
        ("UPSTASH-Retries", " 5 "),
        ("Upstash-Forward-X", "1"),
        ("Upstash-Forward-X", "2"),
        ("Upstash-Callback", Y),
        ("Upstash-Callback-Retries", "1"),
        ("Upstash-Callback-Failure-Callback", Z),
        ("Upstash-Failure-Callback-Forward-A", "b"),
        ("Upstash-Failure-Callback", X),
        ("Upstash-Header-Forward", "true"),
    )

    assert fields[:4] == (
        ("content-type", "text/plain"),
        ("upstash-retries", "5"),
        ("upstash-forward-x", "1"),
        ("upstash-forward-x", "2"),
    )
    assert options.retries == 5
    assert options.headers == (("Content-Type", "text/plain"), ("X", "1"), ("X", "2"))
    assert options.callback is not None
    assert options.callback.url == Y
    assert options.callback.options.failure_callback is not None


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "X-Forwarded-For",
        "Retries",
        "Upstash",
        "Upstash-",
        "Upstash-Retriess",
        "Upstash-Telemetry-Sdk",
        "Upstash-Signature",
        "Upstash-Callback-Bogus",
        "Upstash-Failure-Callback-Callback-Bogus",
        "Upstash-Forward-",
        "Upstash-Cron",
        "Content-Typ",
        "",
    ],
)
def test_a_default_that_a_publish_would_pass_over_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidField) as refused:
        defaults(("Upstash-Callback", X), ("Upstash-Failure-Callback", X), (name, "1"))

    assert f"invalid headers: got '{name}'" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Upstash-Retries", "many"),
        ("Upstash-Retries", ""),
        ("Upstash-Retries", "1001"),
        ("Upstash-Delay", "soon"),
        ("Upstash-Method", "TRACE"),
        ("Upstash-Forward-X", "a\r\nb"),
        ("Upstash-Forward-X", "€"),
        ("Upstash-Forward-x y", "a"),
        ("Content-Type", "a\x00"),
        ("Upstash-Callback", "nowhere"),
        ("Upstash-Callback-Retries", "1"),
        ("Upstash-Header-Forward", "perhaps"),
    ],
)
def test_a_bad_default_is_refused_with_the_name_of_its_header(name: str, value: str) -> None:
    with pytest.raises((InvalidField, InvalidDestination, LimitExceeded)) as refused:
        defaults((name, value))

    assert name.removesuffix("-Retries") in str(refused.value)


def test_default_headers_have_no_more_values_than_a_publish_reads_quickly() -> None:
    defaults(*[("Upstash-Retries", "1")] * MAX_FIELDS)
    with pytest.raises(InvalidField, match="at most"):
        defaults(*[("Upstash-Retries", "1")] * (MAX_FIELDS + 1))


@given(st.lists(st.tuples(st.text() | st.just("Upstash-Forward-X"), st.text()), max_size=3))
def test_whatever_is_given_the_defaults_are_options_or_a_refusal(headers: list[tuple[str, str]]) -> None:
    try:
        fields, _ = defaults(*headers)
    except Refused:
        return
    assert all(name == name.lower() and "\x00" not in value for name, value in fields)


def made(pairs: list[tuple[str, str | None]]) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(url, name) for url, name in pairs)


def defaults(*headers: tuple[str, str]) -> tuple[tuple[tuple[str, str], ...], Options]:
    return parse_default_headers(headers, limits=Limits(), now_s=0.0)
