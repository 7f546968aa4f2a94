"""Look-ups are cached, shared, bounded and vetted. No test asks a name server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence

import pytest

from postroad.domain.destination import Url, parse_url
from postroad.domain.network import parse_policy
from postroad.own_places import OwnPlaces
from postroad.resolver import Addresses, Refusal, Resolver, Unresolved, look_up


class Names:
    """A stand-in for the operating system's resolver, with its answers by host; an exception is raised."""

    def __init__(self, **answers: Sequence[str] | Exception) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        answer = self.answers[host]
        if isinstance(answer, Exception):
            raise answer
        return answer


def url(host: str, port: int = 443) -> Url:
    return parse_url(f"https://{host}:{port}/")


async def test_an_address_is_known_at_once_and_vetted() -> None:
    resolver = Resolver(parse_policy("public"), look_up=Names())
    assert resolver.known(url("1.1.1.1")) == Addresses(((socket.AF_INET, "1.1.1.1"),))
    assert resolver.known(url("[2606:4700::1111]")) == Addresses(((socket.AF_INET6, "2606:4700::1111"),))
    assert resolver.known(url("127.0.0.1")) == Refusal(
        "endpoint resolves to a loopback address: 127.0.0.1 (POSTROAD_DESTINATIONS can allow it)"
    )
    assert isinstance(resolver.known(url("[::ffff:127.0.0.1]")), Refusal)
    assert await resolver.resolve(url("1.1.1.1")) == resolver.known(url("1.1.1.1"))


async def test_a_name_is_known_once_it_was_looked_up() -> None:
    names = Names(api=["1.1.1.1", "2606:4700::1111"])
    resolver = Resolver(parse_policy("public"), look_up=names)
    assert resolver.known(url("api")) is None
    found = await resolver.resolve(url("api"))
    assert found == Addresses(((socket.AF_INET, "1.1.1.1"), (socket.AF_INET6, "2606:4700::1111")))
    assert resolver.known(url("API.")) == resolver.known(url("api", 8443)) == found
    assert names.asked == ["api"]


async def test_a_name_is_refused_if_any_of_its_addresses_is() -> None:
    names = Names(mixed=["1.1.1.1", "::1"], late=[f"1.1.1.{n}" for n in range(100)] + ["10.0.0.1"])
    resolver = Resolver(parse_policy("public"), look_up=names)
    assert await resolver.resolve(url("mixed")) == Refusal(
        "endpoint resolves to a loopback address: ::1 (POSTROAD_DESTINATIONS can allow it)"
    )
    assert isinstance(await resolver.resolve(url("late")), Refusal)


async def test_the_port_takes_part_in_the_verdict() -> None:
    resolver = Resolver(parse_policy("db.internal:8080"), look_up=Names(**{"db.internal": ["10.0.0.1"]}))
    for _ in range(2):
        assert isinstance(await resolver.resolve(url("db.internal", 8080)), Addresses)
        assert isinstance(await resolver.resolve(url("db.internal", 8081)), Refusal)


async def test_a_tenants_policy_counts_in_the_place_of_the_nodes_and_look_ups_are_shared() -> None:
    names = Names(inside=["10.0.0.1"], outside=["1.1.1.1"])
    resolver = Resolver(parse_policy("public"), look_up=names)
    for _ in range(2):
        assert isinstance(await resolver.resolve(url("inside")), Refusal)
        assert isinstance(await resolver.resolve(url("inside"), "lan"), Addresses)
        assert isinstance(await resolver.resolve(url("outside")), Addresses)
        assert await resolver.resolve(url("outside"), "inside") == Refusal(
            "endpoint resolves to an address that is not on the list: 1.1.1.1 "
            "(postroad tenant set --destinations can allow it)"
        )
    assert resolver.known(url("127.0.0.1"), "127.0.0.1") == Addresses(((socket.AF_INET, "127.0.0.1"),))
    assert isinstance(resolver.known(url("127.0.0.1")), Refusal)
    assert names.asked == ["inside", "outside"]


async def test_no_tenants_policy_allows_a_metadata_service() -> None:
    resolver = Resolver(parse_policy("any"), look_up=Names())
    assert isinstance(resolver.known(url("169.254.169.254"), "any,169.254.169.254"), Refusal)


async def test_a_policy_that_cannot_be_read_allows_nothing() -> None:
    resolver = Resolver(parse_policy("any"), look_up=Names())
    assert resolver.known(url("1.1.1.1"), "of a newer version") == Refusal(
        "the list of destinations of this tenant cannot be read (postroad tenant set --destinations sets it)"
    )


async def test_a_verdict_on_an_address_is_not_for_ever() -> None:
    """What this machine's own addresses are may change."""
    verdicts = iter([False, True])

    class Moving(OwnPlaces):
        def may_be_on(self, port: int) -> bool:
            return port == 443

        def hold(self, *_: object) -> bool:
            return next(verdicts)

    resolver = Resolver(parse_policy("any"), own_places=Moving(), look_up=Names())
    assert isinstance(resolver.known(url("1.1.1.1")), Addresses)
    assert isinstance(resolver.known(url("1.1.1.1")), Refusal)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::", "::1"])
async def test_what_this_server_listens_on_is_refused_under_every_policy(address: str) -> None:
    own = OwnPlaces()
    with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        own.add_listener(listener)
        port = listener.getsockname()[1]
    resolver = Resolver(
        parse_policy("any"), own_places=own, look_up=Names(me=["::1" if ":" in address else "127.0.0.1"])
    )
    said = await resolver.resolve(url("me", port))
    assert isinstance(said, Refusal)
    assert said.reason.startswith("endpoint is this server itself: ")
    assert isinstance(resolver.known(url("me", port), "any"), Refusal)
    assert isinstance(await resolver.resolve(url("me", port ^ 1)), Addresses)
    if address == "127.0.0.1":
        for dressed in ("[::ffff:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]"):
            assert isinstance(resolver.known(url(dressed, port)), Refusal), dressed
        assert isinstance(resolver.known(url("127.0.0.2", port)), Addresses)
    if address in ("0.0.0.0", "::"):
        assert isinstance(resolver.known(url("127.0.0.2", port)), Refusal)
        assert isinstance(resolver.known(url("1.1.1.1", port)), Addresses)


async def test_the_database_is_refused_by_name_by_address_and_on_every_address_of_this_machine() -> None:
    own = OwnPlaces()
    await own.add_database([("localhost", 6432), ("192.0.2.7", 6433)])
    resolver = Resolver(parse_policy("any"), own_places=own, look_up=Names(localhost=["1.1.1.1"]))
    for host, port in (("127.0.0.1", 6432), ("127.0.0.9", 6432), ("192.0.2.7", 6433), ("[::ffff:192.0.2.7]", 6433)):
        assert isinstance(resolver.known(url(host, port)), Refusal), host
    assert isinstance(await resolver.resolve(url("localhost", 6432)), Refusal)
    for host, port in (("192.0.2.7", 6432), ("127.0.0.1", 6433), ("1.1.1.1", 6432)):
        assert isinstance(resolver.known(url(host, port)), Addresses), host


async def test_a_database_that_has_moved_is_refused_where_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    means: list[str] = ["192.0.2.7"]

    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if not means:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in means]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("postroad.own_places.FRESH_FOR_S", 0.0)
    own = OwnPlaces()
    await own.add_database([("db.internal", 6432)])
    resolver = Resolver(parse_policy("any"), own_places=own, look_up=Names())
    for now, refused, allowed in (
        (["192.0.2.7"], "192.0.2.7", "192.0.2.8"),
        (["192.0.2.8"], "192.0.2.8", "192.0.2.7"),
        ([], "192.0.2.8", "192.0.2.7"),
    ):
        means[:] = now
        assert isinstance(await resolver.resolve(url(refused, 6432)), Refusal)
        assert isinstance(await resolver.resolve(url(allowed, 6432)), Addresses)


async def test_verdicts_on_many_ports_of_one_host_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.resolver.MAX_VERDICTS", 10)
    resolver = Resolver(parse_policy("any"), look_up=Names())
    for port in range(8000, 8100):
        resolver.known(url("1.1.1.1", port))
    assert len(resolver._known["1.1.1.1"].resolutions) <= 10
    assert resolver.known(url("1.1.1.1", 8000)) is resolver.known(url("1.1.1.1", 8001), "any")


async def test_an_answer_is_forgotten_after_its_time() -> None:
    names = Names(api=["1.1.1.1"])
    resolver = Resolver(parse_policy("public"), look_up=names, ttl=0)
    assert isinstance(await resolver.resolve(url("api")), Addresses)
    names.answers["api"] = ["127.0.0.1"]
    assert resolver.known(url("api")) is None
    assert isinstance(await resolver.resolve(url("api")), Refusal)


@pytest.mark.parametrize("error", [socket.EAI_NONAME, socket.EAI_NODATA])
async def test_a_name_that_does_not_exist_is_said_to_in_the_words_of_qstash(error: int) -> None:
    names = Names(nowhere=socket.gaierror(error, "whatever"))
    resolver = Resolver(parse_policy("any"), look_up=names)
    expected = Unresolved("unable to resolve host: lookup nowhere: no such host", temporary=False)
    assert await resolver.resolve(url("nowhere")) == expected
    assert resolver.known(url("nowhere")) == expected
    assert names.asked == ["nowhere"]


async def test_a_name_with_thousands_of_addresses_is_not_vetted_but_refused() -> None:
    names = Names(most=[f"1.1.1.{n}" for n in range(128)], more=[f"1.1.1.{n}" for n in range(129)])
    resolver = Resolver(parse_policy("any"), look_up=names)
    assert isinstance(await resolver.resolve(url("most")), Addresses)
    assert await resolver.resolve(url("more")) == Unresolved(
        "unable to resolve host: lookup more: more than 128 addresses", temporary=False
    )


async def test_a_name_without_addresses_does_not_exist() -> None:
    resolver = Resolver(parse_policy("any"), look_up=Names(empty=[]))
    assert await resolver.resolve(url("empty")) == Unresolved(
        "unable to resolve host: lookup empty: no such host", temporary=False
    )


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
            "Temporary failure in name resolution",
        ),
        (OSError(24, "Too many open files"), "Too many open files"),
        (UnicodeError("label too long"), "label too long"),
    ],
)
async def test_a_failure_to_find_out_is_temporary(error: Exception, why: str) -> None:
    resolver = Resolver(parse_policy("any"), look_up=Names(shaky=error))
    assert await resolver.resolve(url("shaky")) == Unresolved(
        f"unable to resolve host: lookup shaky: {why}", temporary=True
    )


async def test_requests_for_one_name_share_one_look_up() -> None:
    may_answer = threading.Event()
    asked: list[str] = []

    def answer(host: str) -> Sequence[str]:
        asked.append(host)
        assert may_answer.wait(10)
        return ["1.1.1.1"]

    resolver = Resolver(parse_policy("public"), look_up=answer)
    waiting = [asyncio.create_task(resolver.resolve(url("api", port))) for port in (443, 443, 8443)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    may_answer.set()
    assert [type(found) for found in await asyncio.gather(*waiting[1:])] == [Addresses, Addresses]
    assert waiting[0].cancelled()
    assert asked == ["api"]


async def test_an_answer_is_kept_even_if_nobody_waited_for_it() -> None:
    may_answer = threading.Event()

    def answer(host: str) -> Sequence[str]:
        assert may_answer.wait(10)
        return ["1.1.1.1"]

    resolver = Resolver(parse_policy("public"), look_up=answer)
    impatient = asyncio.create_task(resolver.resolve(url("api")))
    await asyncio.sleep(0)
    impatient.cancel()
    patient = asyncio.create_task(resolver.resolve(url("api")))
    may_answer.set()
    assert await patient == resolver.known(url("api")) == Addresses(((socket.AF_INET, "1.1.1.1"),))


async def test_a_name_server_that_does_not_answer_is_given_up_and_holds_up_nobody_else() -> None:
    end_of_test = threading.Event()

    def answer(host: str) -> Sequence[str]:
        if host != "quick":
            assert end_of_test.wait(10)
        return ["1.1.1.1"]

    resolver = Resolver(parse_policy("public"), look_up=answer, timeout=0.2)
    stuck = [asyncio.create_task(resolver.resolve(url(f"slow{n}"))) for n in range(10)]
    await asyncio.sleep(0)
    assert isinstance(await resolver.resolve(url("quick")), Addresses)
    assert await stuck[3] == Unresolved("unable to resolve host: lookup slow3: timed out after 0.2 s", temporary=True)
    await asyncio.gather(*stuck)
    end_of_test.set()


async def test_names_that_take_for_ever_hold_up_none_that_had_an_answer_before() -> None:
    end_of_test = threading.Event()

    def answer(host: str) -> Sequence[str]:
        if host != "quick":
            assert end_of_test.wait(30)
        return ["1.1.1.1"]

    resolver = Resolver(parse_policy("public"), look_up=answer, ttl=0, timeout=20)
    assert isinstance(await resolver.resolve(url("quick")), Addresses)
    stuck = [asyncio.create_task(resolver.resolve(url(f"slow{n}"))) for n in range(100)]
    await asyncio.sleep(0)
    assert isinstance(await resolver.resolve(url("quick")), Addresses)
    assert not any(one.done() for one in stuck)
    end_of_test.set()
    await asyncio.gather(*stuck)


async def test_a_look_up_that_was_given_up_while_it_waited_for_its_turn_is_never_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("postroad.resolver.LOOKUPS_AT_A_TIME", 1)
    may_answer = threading.Event()
    asked: list[str] = []

    def answer(host: str) -> Sequence[str]:
        asked.append(host)
        assert may_answer.wait(10)
        return ["1.1.1.1"]

    resolver = Resolver(parse_policy("public"), look_up=answer, timeout=0.1)
    given_up = await asyncio.gather(resolver.resolve(url("first")), resolver.resolve(url("second")))
    assert [type(found) for found in given_up] == [Unresolved, Unresolved]
    may_answer.set()
    assert isinstance(await resolver.resolve(url("third")), Addresses)
    assert asked == ["first", "third"]


async def test_the_cache_does_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.resolver.MAX_CACHED", 10)
    names = Names(**{f"h{n}": ["1.1.1.1"] for n in range(30)})
    resolver = Resolver(parse_policy("public"), look_up=names)
    for n in range(30):
        await resolver.resolve(url(f"h{n}"))
    assert sum(resolver.known(url(f"h{n}")) is not None for n in range(30)) <= 10
    assert resolver.known(url("h29")) is not None


async def test_names_that_are_looked_up_again_stay_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.resolver.MAX_CACHED", 10)
    names = Names(used=["1.1.1.1"], **{f"h{n}": ["1.1.1.1"] for n in range(30)})
    resolver = Resolver(parse_policy("public"), look_up=names, ttl=0)
    for n in range(30):
        if n % 4 == 0:
            await resolver.resolve(url("used"))
        await resolver.resolve(url(f"h{n}"))
        assert "used" in resolver._known


def test_the_operating_system_is_asked_for_every_address_of_a_name() -> None:
    found = look_up("localhost")
    assert set(found) <= {"127.0.0.1", "::1"}
    assert found
