"""URL groups: one name for many endpoints, and the headers that every publish to it has."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from postroad.console.inside import ApiRefusedError, segment
from postroad.console.visit import GoneError, Visit
from postroad.errors import PostroadError

PAGE = 100


class TypedWrongError(PostroadError):
    """A line that was typed into a form cannot be understood."""


async def page(visit: Visit) -> Response:
    """The groups, the oldest first, and a form to make one."""
    return await _page(visit)


async def create(visit: Visit) -> Response:
    """Make a group of the endpoints that were typed."""
    name = visit.form.text("name")
    try:
        await _add(visit, name, "make a URL group")
    except (ApiRefusedError, TypedWrongError) as error:
        if not visit.may_change:
            raise  # There is no form to be shown again.
        return await _page(visit, problem=str(error))
    return visit.go(_path(name), f"The group {name} is there.")


async def group_page(visit: Visit, name: str) -> Response:
    """A group with its endpoints and headers."""
    return await _group_page(visit, name)


async def add(visit: Visit, name: str) -> Response:
    """Add endpoints to it."""
    try:
        await _add(visit, name, "add endpoints to a URL group")
    except (ApiRefusedError, TypedWrongError) as error:
        if not visit.may_change:
            raise  # There is no form to be shown again.
        return await _group_page(visit, name, problem=str(error))
    return visit.go(_path(name), "Added: the next publish to the group goes there as well.")


async def remove(visit: Visit, name: str) -> Response:
    """Remove an endpoint; with the last one the group goes as well."""
    url = visit.form.text("url")
    await visit.change(
        "DELETE",
        f"{_api(name)}/endpoints",
        document={"endpoints": [{"url": url}]},
        action="remove an endpoint of a URL group",
        target=f"{name}: {url}",
    )
    if await visit.find(_api(name)) is None:
        return visit.go("/console/groups", f"That was the last endpoint: the group {name} is deleted.")
    return visit.go(_path(name), "Removed. Messages that were published before are still delivered there.")


async def set_headers(visit: Visit, name: str) -> Response:
    """Set the headers of every publish to it."""
    text = visit.form.raw("headers")
    try:
        headers = _fields(text)
        await visit.change(
            "PATCH",
            _api(name),
            document={"headers": headers},
            action="set the headers of a URL group",
            target=f"{name}: {', '.join(headers) or 'none'}",
        )
    except (ApiRefusedError, TypedWrongError) as error:
        if not visit.may_change:
            raise  # There is no form to be shown again.
        return await _group_page(visit, name, headers_problem=str(error), headers_text=text)
    return visit.go(_path(name), "The headers are set for whatever is published from now on.")


async def delete(visit: Visit, name: str) -> Response:
    """Delete it."""
    await visit.change("DELETE", _api(name), action="delete a URL group", target=name)
    return visit.go("/console/groups", f"The group {name} is deleted.")


async def _add(visit: Visit, name: str, action: str) -> None:
    endpoints = _endpoints(visit.form.raw("endpoints"))
    await visit.change(
        "POST",
        f"{_api(name)}/endpoints",
        document={"endpoints": endpoints},
        action=action,
        target=f"{name}: {', '.join(one['url'] for one in endpoints)}",
    )


async def _page(visit: Visit, *, problem: str = "") -> Response:
    search = visit.query("search")
    start = visit.offset()
    groups = [one for one in await visit.get("/v2/topics") if _holds(one, search)]
    return visit.page(
        "groups.html",
        http_status=400 if problem else 200,
        groups=groups[start : start + PAGE],
        next=start + PAGE if len(groups) > start + PAGE else None,
        search=search,
        problem=problem,
    )


async def _group_page(
    visit: Visit, name: str, *, problem: str = "", headers_problem: str = "", headers_text: str | None = None
) -> Response:
    group = await visit.find(_api(name))
    if group is None:
        raise GoneError(f"the URL group {name}")
    headers: dict[str, list[str]] = group.get("headers", {})
    if headers_text is None:
        headers_text = "\n".join(f"{one}: {value}" for one, values in headers.items() for value in values)
    return visit.page(
        "group.html",
        http_status=400 if problem or headers_problem else 200,
        group=group,
        headers_shown=headers,
        headers_text=headers_text,
        headers_problem=headers_problem,
        problem=problem,
    )


def _holds(group: dict[str, Any], search: str) -> bool:
    texts = [group["name"], *(one["url"] for one in group["endpoints"])]
    return any(search.lower() in text.lower() for text in texts)


def _endpoints(text: str) -> list[dict[str, str]]:
    """One a line: a URL, or a name and a URL. Raises `TypedWrongError`."""
    found = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        match line.split():
            case [url]:
                found.append({"url": url})
            case [name, url]:
                found.append({"url": url, "name": name})
            case _:
                raise TypedWrongError(f"{line}: expected a URL, or a name and a URL, on each line")
    return found


def _fields(text: str) -> dict[str, list[str]]:
    """One a line: a name, a colon and a value. Raises `TypedWrongError`."""
    found: dict[str, list[str]] = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise TypedWrongError(f"{line}: expected a name, a colon and a value on each line")
        found.setdefault(name.strip(), []).append(value.strip())
    return found


def _api(name: str) -> str:
    return f"/v2/topics/{segment(name)}"


def _path(name: str) -> str:
    return f"/console/groups/{segment(name)}"


ROUTES = (
    ("GET", "/console/groups", page),
    ("POST", "/console/groups", create),
    ("GET", "/console/groups/{name}", group_page),
    ("POST", "/console/groups/{name}/add", add),
    ("POST", "/console/groups/{name}/remove", remove),
    ("POST", "/console/groups/{name}/headers", set_headers),
    ("POST", "/console/groups/{name}/delete", delete),
)
