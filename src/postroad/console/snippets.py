"""The same request as code: curl, the official SDKs of Python and TypeScript, and our own command line.

Tokens are never in it, only the names of the variables that hold them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from postroad.console.drafts import OPTIONS, Draft
from postroad.domain.url_group import is_group_name

_PYTHON_OPTIONS = {
    "delay": "delay",
    "not_before": "not_before",
    "retries": "retries",
    "retry_delay": "retry_delay",
    "timeout": "timeout",
    "callback": "callback",
    "failure_callback": "failure_callback",
    "deduplication_id": "deduplication_id",
    "label": "label",
}
_SCRIPT_OPTIONS = {
    "delay": "delay",
    "not_before": "notBefore",
    "retries": "retries",
    "retry_delay": "retryDelay",
    "timeout": "timeout",
    "callback": "callback",
    "failure_callback": "failureCallback",
    "deduplication_id": "deduplicationId",
    "label": "label",
}
_FLAGS = {
    "delay": "--delay",
    "retries": "--retries",
    "timeout": "--timeout",
    "callback": "--callback",
    "failure_callback": "--failure-callback",
    "deduplication_id": "--dedup-id",
    "flow_key": "--flow-key",
    "schedule_id": "--id",
    "cron": "--cron",
}
_NUMBERS = ("not_before", "retries")
_DIGITS = re.compile(r"[0-9]{1,15}")


def curl(draft: Draft) -> str:
    """For a shell."""
    parts = [f'curl --globoff --path-as-is -X POST "$QSTASH_URL"{_quoted(_as_typed(draft.path))}']
    parts.append('-H "Authorization: Bearer $QSTASH_TOKEN"')
    parts += [f"-H {_quoted(f'{name}: {value}' if value else f'{name};')}" for name, value in _sent(draft)]
    if draft["body_base64"]:
        return f"echo {draft['body_base64']} | base64 -d | " + _lines([*parts, "--data-binary @-"])
    if draft.kind == "batch":
        parts.append(f"--data-binary {_quoted(draft['batch'])}")
    elif draft["body"]:
        parts.append(f"--data-binary {_quoted(draft['body'])}")
    return _lines(parts)


def command(draft: Draft) -> str:
    """For our command line."""
    if draft.kind == "batch":
        return f"printf '%s' {_quoted(draft['batch'])} | postroad batch -"
    way = {"publish": "publish", "enqueue": f"enqueue {_quoted(draft['queue'])}", "schedule": "schedules create"}
    parts = [f"postroad {way[draft.kind]} {_quoted(draft['destination'])}"]
    rest: list[tuple[str, str]] = []
    for name, value in draft.options.items():
        if name in _FLAGS:
            parts.append(f"{_FLAGS[name]} {_quoted(value)}")
        else:
            rest.append((OPTIONS[name], value))
    if draft.method != "POST":
        parts.append(f"--method {draft.method}")
    parts += [f"--{name} {_quoted(value)}" for name, value in draft.flow.items()]
    if draft["by_content"]:
        rest.append(("Upstash-Content-Based-Deduplication", "true"))
    if draft.kind == "schedule" and draft["queue"]:
        parts.append(f"--queue {_quoted(draft['queue'])}")
    if draft["content_type"]:
        rest.append(("Content-Type", draft["content_type"]))
    parts += [f"-H {_quoted(f'{name}: {value}')}" for name, value in (*rest, *draft.forwarded.items())]
    if draft["body_base64"]:
        return f"echo {draft['body_base64']} | base64 -d | " + _lines([*parts, "--body-file -"])
    if draft["body"] == "-":
        # A dash alone would be standard input.
        return "printf - | " + _lines([*parts, "--body -"])
    if draft["body"]:
        parts.append(f"--body {_quoted(draft['body'])}")
    return _lines(parts)


def python(draft: Draft) -> str:
    """For the `qstash` package."""
    if draft.kind == "batch":
        return (
            "import json, os\nimport httpx\n\n"
            'answer = httpx.post(\n    os.environ["QSTASH_URL"] + "/v2/batch",\n'
            '    headers={"Authorization": f"Bearer {os.environ[\'QSTASH_TOKEN\']}"},\n'
            f"    content={_python_text(draft['batch'])},\n)\nprint(answer.raise_for_status().json())\n"
        )
    fields: dict[str, str] = {}
    call = {"publish": "message.publish", "enqueue": "message.enqueue", "schedule": "schedule.create"}[draft.kind]
    if draft.kind == "schedule":
        fields |= {"destination": repr(draft["destination"]), "cron": repr(draft["cron"])}
        if draft["schedule_id"]:
            fields["schedule_id"] = repr(draft["schedule_id"])
    else:
        fields[_target(draft, "url_group")] = repr(draft["destination"])
    if draft["queue"] and draft.kind != "publish":
        fields["queue"] = repr(draft["queue"])
    given = _given(draft, _PYTHON_OPTIONS, repr)
    if draft["body_base64"]:
        fields["body"] = f"b64decode({draft['body_base64']!r})"
    elif draft["body"]:
        fields["body"] = _python_text(draft["body"])
    if draft["content_type"]:
        fields["content_type"] = repr(draft["content_type"])
    if draft.method != "POST":
        fields["method"] = repr(draft.method)
    fields |= given
    if draft["flow_key"] and draft.kind != "enqueue":
        values = {name: int(value) if _DIGITS.fullmatch(value) else value for name, value in draft.flow.items()}
        fields["flow_control"] = repr({"key": draft["flow_key"], **values})
    if headers := _headers(draft, _PYTHON_OPTIONS, flow=draft.kind != "enqueue"):
        fields["headers"] = repr(headers)
    imports = "import os\n" + ("from base64 import b64decode\n" if draft["body_base64"] else "")
    lines = "".join(f"    {name}={value},\n" for name, value in fields.items())
    return (
        f"{imports}from qstash import QStash\n\n"
        'client = QStash(os.environ["QSTASH_TOKEN"], base_url=os.environ["QSTASH_URL"])\n'
        f"answer = client.{call}(\n{lines})\nprint(answer)\n"
    )


def typescript(draft: Draft) -> str:
    """For the `@upstash/qstash` package, which reads `QSTASH_URL` and `QSTASH_TOKEN` by itself."""
    head = 'import { Client } from "@upstash/qstash";\n\nconst client = new Client();\n'
    if draft.kind == "batch":
        return (
            'const answer = await fetch(`${process.env.QSTASH_URL}/v2/batch`, {\n  method: "POST",\n'
            "  headers: { Authorization: `Bearer ${process.env.QSTASH_TOKEN}` },\n"
            f"  body: {_script(draft['batch'])},\n}});\nconsole.log(await answer.json());\n"
        )
    fields: dict[str, str] = {}
    if draft.kind == "schedule":
        fields |= {"destination": _script(draft["destination"]), "cron": _script(draft["cron"])}
        if draft["schedule_id"]:
            fields["scheduleId"] = _script(draft["schedule_id"])
        if draft["queue"]:
            fields["queueName"] = _script(draft["queue"])
    else:
        fields[_target(draft, "urlGroup")] = _script(draft["destination"])
    if draft["body_base64"]:
        fields["body"] = f'Buffer.from({_script(draft["body_base64"])}, "base64")'
    elif draft["body"]:
        fields["body"] = _script(draft["body"])
    if draft.method != "POST":
        fields["method"] = _script(draft.method)
    fields |= _given(draft, _SCRIPT_OPTIONS, _script)
    if draft["flow_key"]:
        values = {name: int(value) if _DIGITS.fullmatch(value) else value for name, value in draft.flow.items()}
        fields["flowControl"] = _script({"key": draft["flow_key"], **values})
    headers = _headers(draft, _SCRIPT_OPTIONS, flow=True)
    if draft["content_type"]:
        headers = {"Content-Type": draft["content_type"], **headers}
    if headers:
        fields["headers"] = _script(headers)
    lines = "".join(f"  {name}: {value},\n" for name, value in fields.items())
    call = {
        "publish": "client.publish",
        "enqueue": f"client.queue({{ queueName: {_script(draft['queue'])} }}).enqueue",
        "schedule": "client.schedules.create",
    }[draft.kind]
    return f"{head}const answer = await {call}({{\n{lines}}});\nconsole.log(answer);\n"


SNIPPETS: Mapping[str, tuple[str, Callable[[Draft], str]]] = {
    "curl": ("curl", curl),
    "python": ("Python", python),
    "typescript": ("TypeScript", typescript),
    "command": ("postroad", command),
}


def _sent(draft: Draft) -> list[tuple[str, str]]:
    return [("Content-Type", "application/json")] if draft.kind == "batch" else draft.headers()


def _given(draft: Draft, names: Mapping[str, str], shown: Callable[[Any], str]) -> dict[str, str]:
    given = {}
    for name, value in draft.options.items():
        if name in names:
            is_number = name in _NUMBERS and _DIGITS.fullmatch(value)
            given[names[name]] = str(int(value)) if is_number else shown(value)
    if draft["by_content"] and draft.kind != "schedule":
        key = "content_based_deduplication" if names is _PYTHON_OPTIONS else "contentBasedDeduplication"
        given[key] = "True" if names is _PYTHON_OPTIONS else "true"
    if draft.kind == "schedule":
        # The SDKs have no such options for schedules.
        given = {name: value for name, value in given.items() if not name.startswith("dedup")}
    return given


def _headers(draft: Draft, names: Mapping[str, str], *, flow: bool) -> dict[str, str]:
    """Headers for options that an SDK has no name for, and those that go along."""
    headers = {
        OPTIONS[name]: value
        for name, value in draft.options.items()
        if name not in names and name not in ("cron", "schedule_id", "flow_key")
    }
    if draft["flow_key"] and not flow:
        headers["Upstash-Flow-Control-Key"] = draft["flow_key"]
        headers["Upstash-Flow-Control-Value"] = ", ".join(f"{name}={value}" for name, value in draft.flow.items())
    return {**headers, **draft.forwarded}


def _target(draft: Draft, group: str) -> str:
    return group if is_group_name(draft["destination"]) else "url"


def _as_typed(path: str) -> str:
    return path.replace(" ", "%20")


def _quoted(text: str) -> str:
    return shlex.quote(text)


def _lines(parts: list[str]) -> str:
    return " \\\n  ".join(parts) + "\n"


def _python_text(text: str) -> str:
    return repr(text)


def _script(value: Any) -> str:
    """JSON is JavaScript; what ends a script element or a line in old engines is escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
