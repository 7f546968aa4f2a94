"""The `crons` of a `vercel.json` as schedules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import urlsplit

from postroad.cli.as_code import wire
from postroad.cli.as_code.document import Document, Entry
from postroad.cli.as_code.fields import Fields
from postroad.cli.as_code.resource import Schedule
from postroad.domain.cron import parse_cron
from postroad.domain.destination import parse_url
from postroad.domain.headers import check_value
from postroad.errors import InvalidDestination, InvalidValue, shown

SECRET = "CRON_SECRET"  # noqa: S105  the name of a variable

_PREFIX = "vercel"


def is_vercel(root: Entry, name: str) -> bool:
    """Whether a file is one of Vercel's, which may have lost the last of its cron jobs."""
    return isinstance(root.value, dict) and ("crons" in root.value or name == "vercel.json")


def read(document: Document, root: Entry, *, base_url: str, environment: Mapping[str, str]) -> list[Schedule]:
    """A schedule for each cron job: GET, no retries, and the secret of the environment as a bearer, as Vercel does it.

    The API shows a hash in the place of the secret. Faults are left in the document; other fields of the file, and of
    an entry that has what it needs, mean nothing here.
    """
    headers = _headers(document, root, environment)
    found: dict[str, Schedule] = {}
    known = root.value.keys() if isinstance(root.value, dict) else ()
    for entry in Fields(document, root, known).entries("crons"):
        fields = Fields(document, entry, _known(entry))
        path, cron = fields.required("path"), fields.parsed("schedule", parse_cron, required=True)
        destination = _destination(fields, path, base_url)
        if cron is None or destination is None:
            continue
        name = schedule_id(destination.removeprefix(_base(base_url)), cron.text)
        if name in found:
            document.fault(entry, "the same path and schedule a second time")
        found[name] = Schedule(
            name,
            cron=cron.text,
            destination=destination,
            method="GET",
            headers=headers,
            retries=0,
            redact="header[Authorization]" if headers else None,
        )
    return list(found.values())


def schedule_id(path: str, cron: str) -> str:
    """The id of the schedule for a path and an expression; readable, and the same each time."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", urlsplit(path).path).strip("-")[:80]
    digest = sha256(f"{path}\n{cron}".encode()).hexdigest()[:12]
    return "-".join(part for part in (_PREFIX, words, digest) if part)


def is_ours(schedule: Schedule, *, base_url: str) -> bool:
    """Whether `read` made this schedule once for the app there: its id follows from what it does.

    Those of another app on the same server are not touched.
    """
    base = _base(base_url)
    if schedule.method != "GET" or not schedule.destination.startswith(f"{base}/"):
        return False
    return schedule_id(schedule.destination.removeprefix(base), schedule.cron) == schedule.name


def _headers(document: Document, root: Entry, environment: Mapping[str, str]) -> dict[str, str]:
    secret = environment.get(SECRET)
    if secret is None:
        return {}
    document.secrets.add(secret, SECRET)
    try:
        bearer = check_value(f"Bearer {secret}")
    except InvalidValue as error:
        document.fault(root, f"the environment variable {SECRET} cannot be sent: expected {error.expected}")
        return {}
    if not secret.strip():  # as CI systems give secrets that are not there
        document.fault(root, f"the environment variable {SECRET} is empty: unset it to call the app without a secret")
    return {"Authorization": bearer}


def _known(entry: Entry) -> list[str]:
    """The fields that an entry may have: any, as the file is Vercel's, but a slip in one of ours is to be told."""
    needed = ["path", "schedule"]
    is_whole = isinstance(entry.value, dict) and entry.value.keys() >= set(needed)
    return [*entry.value] if is_whole and isinstance(entry.value, dict) else needed


def _destination(fields: Fields, path: str, base_url: str) -> str | None:
    if not path:
        return None
    if not path.startswith("/"):
        fields.fault("path", f"got {shown(path)}, expected a path that begins with /")
        return None
    if "#" in path:
        fields.fault("path", f"got {shown(path)}, expected a path without a fragment, which is not sent")
        return None
    destination = base_url.rstrip("/") + path
    try:
        parse_url(destination)
    except InvalidDestination as error:
        fields.fault("path", f"{shown(destination)}: {error.reason}")
        return None
    return wire.as_sent(destination)


def _base(url: str) -> str:
    return wire.as_sent(f"{url.rstrip('/')}/").removesuffix("/")
