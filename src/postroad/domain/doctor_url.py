"""Why the URL that a signature is for is another: which part of it."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_PORTS = {"http": 80, "https": 443}


def differences(signed: str, given: str) -> list[str]:
    """Sentences on each part in which the URL of the receiver differs from the signed one; none if they are equal."""
    if signed == given:
        return []
    try:
        theirs, ours = urlsplit(signed), urlsplit(given)
    except ValueError:
        return ["one of them is no URL"]
    found = [*_of_origin(theirs, ours), *_of_path(theirs, ours), *_of_query(theirs, ours)]
    if ours.fragment != theirs.fragment:
        found.append(f"the fragment: signed is {theirs.fragment!r}, here it is {ours.fragment!r}")
    return found or ["how it is written, although it means the same: what is compared are the characters"]


def _of_origin(theirs: SplitResult, ours: SplitResult) -> list[str]:
    found = []
    if theirs.scheme != ours.scheme:
        why = ""
        if (theirs.scheme, ours.scheme) == ("https", "http"):
            why = ": a proxy before the app ends TLS, so take the scheme from X-Forwarded-Proto"
        found.append(f"the scheme: signed is {theirs.scheme}, here it is {ours.scheme}{why}")
    if (theirs.hostname or "") != (ours.hostname or ""):
        found.append(
            f"the host: signed is {theirs.hostname}, here it is {ours.hostname}: behind a proxy the public host is in "
            "X-Forwarded-Host, unless the message was published to another name of the app"
        )
    elif theirs.netloc != ours.netloc and _port(theirs) == _port(ours) and theirs.scheme == ours.scheme:
        found.append(f"how the host is written: signed is {theirs.netloc}, here it is {ours.netloc}")
    their_port, our_port = _port(theirs), _port(ours)
    if their_port != our_port and (_named_port(theirs) or _named_port(ours)):
        found.append(f"the port: signed is {their_port}, here it is {our_port}")
    return found


def _of_path(theirs: SplitResult, ours: SplitResult) -> list[str]:
    signed, given = theirs.path, ours.path
    if signed == given:
        return []
    if signed.rstrip("/") == given.rstrip("/"):
        here = "has one at the end" if given.endswith("/") else "has none at the end"
        return [f"the slash at the end of the path: signed is {signed or 'nothing'}, the URL here {here}"]
    if unquote(signed) == unquote(given):
        return [f"how the path is percent-encoded: signed is {signed}, here it is {given}"]
    if signed.lower() == given.lower():
        return [f"large and small letters of the path: signed is {signed}, here it is {given}"]
    if given and signed.endswith(given):
        cut = signed.removesuffix(given)
        return [f"the path: signed is {signed}, here it is {given}: something in between took {cut} away"]
    return [f"the path: signed is {signed or '/'}, here it is {given or '/'}"]


def _of_query(theirs: SplitResult, ours: SplitResult) -> list[str]:
    signed, given = theirs.query, ours.query
    if signed == given:
        return []
    if not given:
        return [f"the query: signed is ?{signed}, here there is none: verify() needs the whole URL"]
    if not signed:
        return [f"the query: signed is none, here it is ?{given}"]
    their_pairs, our_pairs = parse_qsl(signed, keep_blank_values=True), parse_qsl(given, keep_blank_values=True)
    if their_pairs == our_pairs:
        return [f"how the query is percent-encoded: signed is ?{signed}, here it is ?{given}"]
    if sorted(their_pairs) == sorted(our_pairs):
        return [f"the order in the query: signed is ?{signed}, here it is ?{given}"]
    return [f"the query: signed is ?{signed}, here it is ?{given}"]


def _port(url: SplitResult) -> int | str | None:
    return _named_port(url) or _PORTS.get(url.scheme)


def _named_port(url: SplitResult) -> int | str | None:
    """The port in a URL, as it stands there if it is none."""
    try:
        return url.port
    except ValueError:
        return url.netloc.rpartition(":")[2]
