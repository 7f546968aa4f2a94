"""Pages out of templates: escaped always, and with nothing in them that a browser would have to trust."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from postroad.console import payloads
from postroad.domain.duration import format_duration

HERE = Path(__file__).parent
STATIC = HERE / "static"


def environment() -> Environment:
    """The templates with their filters."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "ago": ago,
        "at": at,
        "count": count,
        "bytes": size,
        "ms": milliseconds,
        "span": lambda seconds: format_duration(timedelta(seconds=round(seconds))),
        "url": parts_of_url,
        "query": lambda values: urlencode(values, doseq=True),
        "payload": payloads.shown,
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
    }
    made.globals["static"] = static_url
    return made


@cache
def static_url(name: str) -> str:
    """Where a file is served; with its hash, so that browsers may keep it for ever."""
    return f"/console/static/{name}?{sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"


def instant(value: datetime | float) -> datetime:
    """An instant, or Unix milliseconds as the API gives them."""
    return value if isinstance(value, datetime) else datetime.fromtimestamp(value / 1000, UTC)


def at(value: datetime | float | None, *, seconds: bool = True) -> Markup:
    """An instant, which the browser shows in its own zone; without scripts in UTC."""
    if value is None:
        return Markup("—")
    moment = instant(value).astimezone(UTC)
    text = moment.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")
    return Markup('<time datetime="{}" data-time="{}" title="{} UTC">{} UTC</time>').format(
        moment.isoformat(timespec="milliseconds"), "full" if seconds else "short", text, text
    )


def ago(value: datetime | float | None) -> Markup:
    """An instant as the time from or to now, which goes on as one looks; without scripts the instant in UTC."""
    if value is None:
        return Markup("—")
    moment = instant(value).astimezone(UTC)
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}" data-time="ago" title="{} UTC">{}</time>').format(
        moment.isoformat(timespec="milliseconds"), text, text
    )


def count(value: float) -> str:
    """A number as people write it."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def size(value: float) -> str:
    """A number of bytes in the unit that fits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def milliseconds(value: float | None) -> str:
    """How long something took."""
    if value is None:
        return "—"
    if value < 1000:
        return f"{value:.0f} ms"
    return f"{value / 1000:.2f} s" if value < 60_000 else format_duration(timedelta(seconds=round(value / 1000)))


def parts_of_url(value: str) -> Markup:
    """A URL with what tells it from others set off: the host, then the rest."""
    scheme, mark, rest = value.partition("://")
    if not mark:
        return escape(value)
    host, slash, path = rest.partition("/")
    return Markup('<span class="url"><span class="quiet">{}://</span>{}<span class="path">{}</span></span>').format(
        scheme, host, slash + path
    )
