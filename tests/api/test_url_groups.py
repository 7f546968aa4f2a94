"""URL groups through the API: made, read, changed, deleted, and never another tenant's."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from postroad.dev import DEV_USERS
from postroad.domain.tenant import Access
from postroad.store import tenants, tokens
from postroad.store.engine import Connection
from tests.conftest import Running, Serve

X, Y, Z = "http://127.0.0.1:1/x", "http://127.0.0.1:1/y", "http://127.0.0.1:1/z"
STRANGER = {"Authorization": f"Bearer {DEV_USERS[1].token}"}


async def test_a_group_is_made_by_its_first_endpoints_and_keeps_their_order(server: Running) -> None:
    answer = await add(server, "news", {"url": Y, "name": "the second"}, {"url": X}, {"url": Z, "name": None})

    assert (answer.status_code, answer.content) == (200, b"")
    group = await get(server, "news")
    assert group == {
        "name": "news",
        "createdAt": group["createdAt"],
        "updatedAt": group["updatedAt"],
        "endpoints": [{"name": "the second", "url": Y}, {"url": X}, {"url": Z}],
    }
    assert 1_600_000_000_000 < group["createdAt"] <= group["updatedAt"] < 100_000_000_000_000

    await add(server, "news", {"url": f"{X}/2"})

    later = await get(server, "news")
    assert [one["url"] for one in later["endpoints"]] == [Y, X, Z, f"{X}/2"]
    assert later["createdAt"] == group["createdAt"]
    assert later["updatedAt"] > group["updatedAt"]


async def test_a_known_url_is_renamed_and_a_known_name_is_repointed(server: Running) -> None:
    await add(server, "news", {"url": X, "name": "a"}, {"url": Y, "name": "b"})

    await add(server, "news", {"url": X, "name": "c"})
    assert (await get(server, "news"))["endpoints"] == [{"name": "c", "url": X}, {"name": "b", "url": Y}]

    await add(server, "news", {"url": Z, "name": "b"})
    assert (await get(server, "news"))["endpoints"] == [{"name": "c", "url": X}, {"name": "b", "url": Z}]

    await add(server, "news", {"url": Z, "name": "c"})
    assert (await get(server, "news"))["endpoints"] == [{"name": "c", "url": Z}]


async def test_the_same_endpoints_again_change_nothing(server: Running) -> None:
    await add(server, "news", {"url": X, "name": "a"}, {"url": Y})
    before = await get(server, "news")

    answer = await add(server, "news", {"url": Y}, {"url": X})

    assert answer.status_code == 200
    assert await get(server, "news") == before


async def test_all_groups_are_listed_the_oldest_first(server: Running) -> None:
    assert (await server.http.get("/v2/topics")).json() == []
    for name in ("b", "-a", "_c.d"):
        await add(server, name, {"url": X})

    listed = (await server.http.get("/v2/topics")).json()

    assert [group["name"] for group in listed] == ["b", "-a", "_c.d"]
    assert listed == [await get(server, name) for name in ("b", "-a", "_c.d")]


async def test_endpoints_are_removed_by_url_or_by_name(server: Running) -> None:
    await add(server, "news", {"url": X, "name": "a name"}, {"url": Y, "name": "b"}, {"url": Z}, {"url": f"{Z}/2"})

    answer = await remove(server, "news", {"url": Z}, {"name": "a name"})

    assert (answer.status_code, answer.content) == (200, b"")
    assert (await get(server, "news"))["endpoints"] == [{"name": "b", "url": Y}, {"url": f"{Z}/2"}]

    assert (await remove(server, "news", {"url": "not there"}, {"name": "nor there"})).status_code == 200
    assert (await remove(server, "news", {"url": X, "name": "b"}, {"url": Y, "name": "a name"})).status_code == 200
    assert len((await get(server, "news"))["endpoints"]) == 2, "of a URL and a name, both must be the endpoint's"


async def test_a_group_disappears_with_its_last_endpoint(server: Running) -> None:
    await add(server, "news", {"url": X, "name": "a"}, {"url": Y})
    await patch(server, "news", {"Upstash-Retries": "1"})

    assert (await remove(server, "news", {"url": Y}, {"name": "a", "url": X})).status_code == 200

    assert (await server.http.get("/v2/topics/news")).status_code == 404
    assert (await server.http.get("/v2/topics")).json() == []
    await add(server, "news", {"url": X})
    assert "headers" not in await get(server, "news"), "a group of the same name later is another one"


async def test_a_group_is_deleted_and_deleting_it_again_succeeds(server: Running) -> None:
    await add(server, "news", {"url": X})

    for name in ("news", "news", "never-was", "no name of a group"):
        answer = await server.http.delete(f"/v2/topics/{name}")
        assert (answer.status_code, answer.content) == (200, b"")

    assert (await server.http.get("/v2/topics/news")).status_code == 404


@pytest.mark.parametrize("name", ["missing", "not a name", "nul\x00", "x" * 257])
async def test_a_group_that_is_not_there_is_not_found(server: Running, name: str) -> None:
    path = "/v2/topics/" + name.replace("\x00", "%00")

    for answer in (
        await server.http.get(path),
        await server.http.request("DELETE", f"{path}/endpoints", json={"endpoints": [{"url": X}]}),
        await server.http.patch(path, json={"headers": {"Upstash-Retries": "1"}}),
    ):
        assert answer.status_code == 404
        if name == "missing":
            assert answer.json() == {"error": "topic missing not found"}
    assert (await server.http.get("/v2/topics")).json() == [], "nothing but endpoints makes a group"


async def test_default_headers_are_set_shown_replaced_and_cleared(server: Running) -> None:
    await add(server, "hooks", {"url": X})
    before = await get(server, "hooks")

    headers = {"Upstash-Header-Forward": ["true"], "upstash-retries": "3", "upstash-forward-X-a": ["1", "2"]}
    answer = await patch(server, "hooks", {**headers, "content-type": "a/b"})

    assert (answer.status_code, answer.content) == (200, b"")
    after = await get(server, "hooks")
    assert after["headers"] == {
        "Upstash-Header-Forward": ["true"],
        "Upstash-Retries": ["3"],
        "Upstash-Forward-X-A": ["1", "2"],
        "Content-Type": ["a/b"],
    }
    assert after["endpoints"] == before["endpoints"]
    assert after["updatedAt"] > before["updatedAt"]

    await patch(server, "hooks", {"Upstash-Delay": "10s", "Upstash-Retries": None, "Upstash-Timeout": []})
    assert (await get(server, "hooks"))["headers"] == {"Upstash-Delay": ["10s"]}
    await add(server, "hooks", {"url": Y})
    assert (await get(server, "hooks"))["headers"] == {"Upstash-Delay": ["10s"]}

    await patch(server, "hooks", {})
    assert "headers" not in await get(server, "hooks")


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"Upstash-Retries": "many"}, "Upstash-Retries"),
        ({"Upstash-Retries": ["3", "many"]}, "Upstash-Retries"),
        ({"Upstash-Retries": "9999"}, "quota maxRetries exceeded, current limit: 1000 (field: Upstash-Retries)"),
        ({"Upstash-Retries": 3}, "headers.Upstash-Retries"),
        ({"Upstash-Retries": ["3", 3]}, "headers.Upstash-Retries"),
        ({"Upstash-Retries": {"a": "b"}}, "headers.Upstash-Retries"),
        ({"Upstash-Retriess": "3"}, "Upstash-Retriess"),
        ({"X-Own": "3"}, "X-Own"),
        ({"Upstash-Delay": "10s", "Upstash-Timeout": "long"}, "Upstash-Timeout"),
        ({"Upstash-Callback": "nowhere"}, "Upstash-Callback"),
        ({"Upstash-Forward-X": "a\u0000b"}, "Upstash-Forward-X"),
        ({"Content-Type": "a\u0000b"}, "Content-Type"),
        (None, "headers"),
        ([], "headers"),
        ("Upstash-Retries: 3", "headers"),
    ],
    ids=repr,
)
async def test_a_bad_default_header_is_refused_by_name_and_leaves_the_others(
    server: Running, headers: object, named: str
) -> None:
    await add(server, "hooks", {"url": X})
    await patch(server, "hooks", {"Upstash-Label": "before"})
    before = await get(server, "hooks")

    answer = await server.http.patch("/v2/topics/hooks", json={"headers": headers})

    assert answer.status_code == 400
    assert named in answer.json()["error"]
    assert await get(server, "hooks") == before


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("", "body"),
        ("{", "body"),
        ("[]", "body"),
        ("null", "body"),
        ("{}", "endpoints"),
        ('{"endpoints": null}', "endpoints"),
        ('{"endpoints": []}', "endpoints"),
        ('{"endpoints": {"url": "http://127.0.0.1/"}}', "endpoints"),
        ('{"endpoints": ["http://127.0.0.1/"]}', "endpoints[0]"),
        ('{"endpoints": [{"url": "http://127.0.0.1/"}, {"url": 5}]}', "endpoints[1].url"),
        ('{"endpoints": [{"url": "http://127.0.0.1/", "name": ["a"]}]}', "endpoints[0].name"),
        ('{"endpoints": [{"url": "http://127.0.0.1/", "label": "a"}]}', "endpoints[0].label"),
        ('{"endpoints": [{"url": "http://127.0.0.1/"}], "force": true}', "force"),
    ],
)
async def test_a_body_that_is_not_understood_is_refused_by_the_field_that_is_wrong(
    server: Running, body: str, named: str
) -> None:
    await add(server, "kept", {"url": X})
    before = (await server.http.get("/v2/topics")).json()

    for method, name in (("POST", "new"), ("POST", "kept"), ("DELETE", "kept")):
        answer = await server.http.request(method, f"/v2/topics/{name}/endpoints", content=body)
        assert answer.status_code == 400
        assert named in answer.json()["error"]

    assert (await server.http.get("/v2/topics")).json() == before


@pytest.mark.parametrize(
    ("endpoint", "error"),
    [
        ({"name": "a"}, "invalid endpoints[1].url: endpoint has invalid scheme, add http:// or https://"),
        ({"url": ""}, "invalid endpoints[1].url: endpoint has invalid scheme, add http:// or https://"),
        ({"url": "example.com"}, "invalid endpoints[1].url: endpoint has invalid scheme, add http:// or https://"),
        ({"url": "http://a@example.com"}, "invalid endpoints[1].url: "),
        ({"url": "http://example.com/ä"}, "invalid endpoints[1].url: "),
        ({"url": f"http://127.0.0.1/{'a' * 2048}"}, "invalid endpoints[1].url: "),
        ({"url": Y, "name": "a\u0000"}, "invalid endpoints[1].name: "),
        ({"url": Y, "name": "x" * 257}, "invalid endpoints[1].name: "),
    ],
    ids=repr,
)
async def test_one_bad_endpoint_among_others_stores_none_of_them(
    server: Running, endpoint: dict[str, str], error: str
) -> None:
    answer = await add(server, "news", {"url": X, "name": "x"}, endpoint)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith(error)
    assert (await server.http.get("/v2/topics")).json() == []


async def test_a_removal_must_say_what_to_remove(server: Running) -> None:
    await add(server, "news", {"url": X})

    for nothing in ({}, {"url": None}, {"url": "", "name": ""}):
        answer = await remove(server, "news", {"url": X}, nothing)
        assert answer.status_code == 400
        assert "endpoints[1]" in answer.json()["error"]

    assert len((await get(server, "news"))["endpoints"]) == 1


@pytest.mark.parametrize("name", ["a b", "ä", "a:b", "a,b", "x" * 257])
async def test_a_name_that_no_group_may_have_is_refused(server: Running, name: str) -> None:
    answer = await add(server, name, {"url": X})

    assert answer.status_code == 400
    assert "topic name" in answer.json()["error"]
    assert (await server.http.get("/v2/topics")).json() == []


async def test_names_with_anything_printable_survive(server: Running) -> None:
    names = ["two words", "é 🙂", '"quoted" \\', "x" * 256]

    await add(server, "A.b-c_9" + "x" * 249, *({"url": f"{X}/{n}", "name": name} for n, name in enumerate(names)))

    group = await get(server, "A.b-c_9" + "x" * 249)
    assert [one["name"] for one in group["endpoints"]] == names
    await remove(server, "A.b-c_9" + "x" * 249, *({"name": name} for name in names[1:]))
    assert len((await get(server, "A.b-c_9" + "x" * 249))["endpoints"]) == 1


async def test_names_of_groups_differ_by_case(server: Running) -> None:
    await add(server, "News", {"url": X})

    assert (await server.http.get("/v2/topics/news")).status_code == 404


async def test_an_endpoint_that_no_message_may_go_to_is_refused(serve: Serve) -> None:
    server = await serve(destinations="public")

    for url in (X, "http://[::1]/", "http://169.254.169.254/", "http://localhost/"):
        answer = await add(server, "news", {"url": "http://192.0.43.8/"}, {"url": url})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("invalid endpoints[1].url: ")
    assert (await server.http.get("/v2/topics")).json() == []

    assert (await add(server, "news", {"url": "http://192.0.43.8/"})).status_code == 200
    for name in ("Upstash-Callback", "Upstash-Failure-Callback"):
        answer = await patch(server, "news", {name: X})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(f"invalid {name}: ")
    assert "headers" not in await get(server, "news")


async def test_no_endpoint_is_lost_to_others_that_are_added_at_the_same_time(server: Running) -> None:
    urls = [f"{X}/{n}" for n in range(20)]

    answers = await asyncio.gather(*(add(server, "news", {"url": url, "name": url[-2:]}) for url in urls))

    assert {answer.status_code for answer in answers} == {200}
    assert sorted(one["url"] for one in (await get(server, "news"))["endpoints"]) == sorted(urls)

    answers = await asyncio.gather(
        *(remove(server, "news", {"url": url}) for url in urls[:10]),
        *(add(server, "news", {"url": f"{url}/more"}) for url in urls[:10]),
        *(patch(server, "news", {"Upstash-Label": str(n)}) for n in range(5)),
    )

    assert {answer.status_code for answer in answers} == {200}
    group = await get(server, "news")
    assert sorted(one["url"] for one in group["endpoints"]) == sorted(urls[10:] + [f"{url}/more" for url in urls[:10]])
    assert list(group["headers"]) == ["Upstash-Label"]


async def test_a_group_that_is_emptied_and_filled_at_the_same_time_has_what_was_added_last(server: Running) -> None:
    for n in range(10):
        await add(server, "news", {"url": X})
        removed, added = await asyncio.gather(remove(server, "news", {"url": X}), add(server, "news", {"url": Y}))

        assert (removed.status_code, added.status_code) == (200, 200)
        assert [one["url"] for one in (await get(server, "news"))["endpoints"]] == [Y], n
        await server.http.delete("/v2/topics/news")


async def test_a_tenant_has_only_so_many_groups_and_can_still_change_them(serve: Serve) -> None:
    server = await serve(max_url_groups=3)
    answers = await asyncio.gather(*(add(server, f"g{n}", {"url": X}) for n in range(8)))

    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 5
    assert {(answer.status_code, answer.json()["error"]) for answer in refused} == {
        (412, "quota maxUrlGroups exceeded, current limit: 3")
    }
    names = [group["name"] for group in (await server.http.get("/v2/topics")).json()]
    assert len(names) == 3

    assert (await add(server, names[0], {"url": Y})).status_code == 200
    assert (await patch(server, names[0], {"Upstash-Retries": "1"})).status_code == 200
    assert (await add(server, "other", {"url": X}, headers=STRANGER)).status_code == 200
    await server.http.delete(f"/v2/topics/{names[0]}")
    assert (await add(server, "new", {"url": X})).status_code == 200


async def test_a_group_has_only_so_many_endpoints_and_they_can_still_be_changed(serve: Serve) -> None:
    server = await serve(max_endpoints=3)
    too_many = {"error": "quota maxEndpoints exceeded, current limit: 3"}

    answer = await add(server, "news", *({"url": f"{X}/{n}"} for n in range(4)))
    assert (answer.status_code, answer.json()) == (412, too_many)
    assert (await server.http.get("/v2/topics")).json() == []

    await add(server, "news", *({"url": f"{X}/{n}", "name": str(n)} for n in range(3)))
    answer = await add(server, "news", {"url": Y})
    assert (answer.status_code, answer.json()) == (412, too_many)
    assert (await add(server, "news", {"url": Y, "name": "0"}, {"url": f"{X}/1", "name": "one"})).status_code == 200
    assert [one["name"] for one in (await get(server, "news"))["endpoints"]] == ["0", "one", "2"]


async def test_a_group_above_a_limit_that_was_lowered_can_be_changed_but_not_grow(serve: Serve) -> None:
    await add(await serve(), "news", *({"url": f"{X}/{n}"} for n in range(5)))
    server = await serve(max_endpoints=2)

    assert (await add(server, "news", {"url": f"{X}/0", "name": "first"})).status_code == 200
    assert (await add(server, "news", {"url": Y})).status_code == 412
    assert len((await get(server, "news"))["endpoints"]) == 5


async def test_a_body_is_only_so_large(server: Running) -> None:
    await add(server, "news", {"url": X})
    much = json.dumps({"endpoints": [{"url": X}] * 200_000})
    for method in ("POST", "DELETE"):
        answer = await server.http.request(method, "/v2/topics/news/endpoints", content=much)
        assert answer.status_code == 413

    assert (await patch(server, "news", {"Upstash-Forward-X": "x" * 70_000})).status_code == 413
    assert len((await get(server, "news"))["endpoints"]) == 1


async def test_another_tenants_group_is_as_if_it_did_not_exist(server: Running) -> None:
    await add(server, "news", {"url": X, "name": "a"})
    before = await get(server, "news")

    assert (await server.http.get("/v2/topics", headers=STRANGER)).json() == []
    missing = [
        await server.http.get("/v2/topics/news", headers=STRANGER),
        await remove(server, "news", {"url": X}, headers=STRANGER),
        await patch(server, "news", {"Upstash-Retries": "1"}, headers=STRANGER),
    ]
    assert [(answer.status_code, answer.json()["error"]) for answer in missing] == [
        (404, "topic news not found")
    ] * 3  # fmt: skip
    assert (await server.http.delete("/v2/topics/news", headers=STRANGER)).status_code == 200
    await add(server, "news", {"url": Y, "name": "a"}, headers=STRANGER)

    assert await get(server, "news") == before
    theirs = (await server.http.get("/v2/topics/news", headers=STRANGER)).json()
    assert theirs["endpoints"] == [{"name": "a", "url": Y}]


async def test_a_token_that_may_only_read_changes_nothing(server: Running, connection: Connection) -> None:
    await add(server, "news", {"url": X})
    tenant_id = await tenants.find(connection, DEV_USERS[0].tenant)
    assert tenant_id is not None
    for access in (Access.READ_ONLY, Access.PUBLISH_ONLY):
        await tokens.add(connection, tenant_id, access.value, name="test", access=access)
    read_only, publish_only = {"Authorization": "Bearer read-only"}, {"Authorization": "Bearer publish-only"}

    assert (await server.http.get("/v2/topics/news", headers=read_only)).status_code == 200
    assert len((await server.http.get("/v2/topics", headers=read_only)).json()) == 1
    assert (await server.http.get("/v2/topics/news", headers=publish_only)).status_code == 403
    for headers, status in ((read_only, 403), (publish_only, 403), ({"Authorization": ""}, 401)):
        for answer in (
            await add(server, "news", {"url": Y}, headers=headers),
            await remove(server, "news", {"url": X}, headers=headers),
            await patch(server, "news", {"Upstash-Retries": "1"}, headers=headers),
            await server.http.delete("/v2/topics/news", headers=headers),
        ):
            assert answer.status_code == status
    assert [one["url"] for one in (await get(server, "news"))["endpoints"]] == [X]


async def test_paths_may_be_written_as_clients_write_them(server: Running) -> None:
    body = {"endpoints": [{"url": X}]}
    for path in ("/v2/Topics/Endpoints/endpoints/", "//v2/topics/other/Endpoints", "/V2/TOPICS/third/endpoints"):
        assert (await server.http.post(server.url + path, json=body)).status_code == 200

    assert [one["name"] for one in (await server.http.get("/v2/topics/")).json()] == ["Endpoints", "other", "third"]
    assert (await server.http.get("/v2/Topics/Endpoints/")).json()["name"] == "Endpoints"
    assert (await server.http.delete("/v2/topics/")).status_code == 405
    assert len((await server.http.get("/v2/Topics")).json()) == 3


async def test_a_parameter_of_the_list_that_means_nothing_is_refused_by_name(server: Running) -> None:
    answer = await server.http.get("/v2/topics", params={"cursr": "a"})

    assert answer.status_code == 400
    assert "cursr" in answer.json()["error"]


async def test_every_route_documents_its_body_and_its_errors(server: Running) -> None:
    paths = (await server.http.get("/openapi.json")).json()["paths"]

    routes = {
        (path, method): route
        for path, methods in paths.items()
        if path.startswith("/v2/topics")
        for method, route in methods.items()
    }
    assert set(routes) == {
        ("/v2/topics", "get"),
        ("/v2/topics/{name}", "get"),
        ("/v2/topics/{name}", "patch"),
        ("/v2/topics/{name}", "delete"),
        ("/v2/topics/{name}/endpoints", "post"),
        ("/v2/topics/{name}/endpoints", "delete"),
    }
    for (_, method), route in routes.items():
        assert route["summary"]
        assert route["description"]
        assert {"200", "401", "403", "503"} <= set(route["responses"])
        if method in ("post", "patch"):
            assert route["requestBody"]["content"]["application/json"]["schema"]["required"]


async def add(server: Running, group: str, *endpoints: dict[str, Any], **given: Any) -> httpx.Response:
    return await server.http.post(f"/v2/topics/{group}/endpoints", json={"endpoints": endpoints}, **given)


async def remove(server: Running, group: str, *endpoints: dict[str, Any], **given: Any) -> httpx.Response:
    return await server.http.request("DELETE", f"/v2/topics/{group}/endpoints", json={"endpoints": endpoints}, **given)


async def patch(server: Running, group: str, defaults: dict[str, Any], **given: Any) -> httpx.Response:
    return await server.http.patch(f"/v2/topics/{group}", json={"headers": defaults}, **given)


async def get(server: Running, group: str) -> dict[str, Any]:
    answer = await server.http.get(f"/v2/topics/{group}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
