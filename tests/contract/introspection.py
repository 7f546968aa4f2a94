"""What methods and arguments a client of Python has, and which of them a call uses. Runs beside any version of it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def methods_of(client: object) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public methods of a client's parts, as `queue.get`."""
    for part, api in vars(client).items():
        if not part.startswith("_"):
            for name, method in inspect.getmembers(api, inspect.isroutine):
                if not name.startswith("_"):
                    yield f"{part}.{name}", method


def arguments_of(method: Callable[..., Any]) -> Iterator[str]:
    """The arguments of a method, and the keys of those that are typed dictionaries, as `filter.label`."""
    hints = typing.get_type_hints(method)
    for name in inspect.signature(method).parameters:
        yield name
        yield from (f"{name}.{key}" for key in _keys(hints.get(name)))


def given(method: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[str]:
    """Which of `arguments_of` a call has."""
    for name, value in inspect.signature(method).bind(*args, **kwargs).arguments.items():
        yield name
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                yield from (f"{name}.{key}" for key in one)


def _keys(hint: Any) -> list[str]:
    if typing.is_typeddict(hint):
        return list(typing.get_type_hints(hint))
    return [key for part in typing.get_args(hint) for key in _keys(part)]
