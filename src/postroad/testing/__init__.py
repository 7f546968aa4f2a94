"""A real Postroad for the tests of an app: the fixtures `postroad_server` and `postroad_env` of a pytest plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postroad.testing.receiver import Answer, Received, Receiver
    from postroad.testing.server import PostroadServer

__all__ = ["Answer", "PostroadServer", "Received", "Receiver"]

_HOMES = {"Answer": "receiver", "Received": "receiver", "Receiver": "receiver", "PostroadServer": "server"}


def __getattr__(name: str) -> object:
    """The public names, imported when they are used: pytest loads this package in every run."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
