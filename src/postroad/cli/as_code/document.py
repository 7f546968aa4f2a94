"""A YAML or JSON file as values that know where they stand, with `${NAME}` from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from postroad.cli.as_code.secret import Secrets
from postroad.errors import PostroadError, shown

_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TEXTS = {f"tag:yaml.org,2002:{name}" for name in ("str", "timestamp", "value", "merge")}
_SCALARS = _TEXTS | {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null")}
_MERGE = "tag:yaml.org,2002:merge"
_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?[eE][-+]?[0-9]+")
"""A number in JSON and YAML 1.2, and a text in YAML 1.1, which reads the file."""
_PAIR = re.compile(r"[\ud800-\udbff][\udc00-\udfff]")

MOST_VALUES = 1_000_000
"""Of a file with its aliases written out: a few lines of them could be more than any memory holds."""

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of the file: `path` is as in `schedules[0].cron`, `text` is a scalar as it is written."""

    value: Scalar | list[Entry] | dict[str, Entry]
    path: str
    line: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at a place of the file."""

    line: int
    path: str
    reason: str


class InvalidFile(PostroadError):
    """A file that cannot be applied, with all that is wrong in it. Nothing was changed."""

    def __init__(self, name: str, faults: list[Fault]) -> None:
        self.faults = sorted(faults, key=lambda fault: fault.line)
        lines = [f"{name}, line {one.line}, {one.path or 'the file'}: {one.reason}" for one in self.faults]
        super().__init__("\n".join([*lines, "nothing was changed"]) if len(lines) > 1 else f"{lines[0]}")


@dataclass(slots=True)
class Document:
    """A file while it is read: faults are collected, so that all of them can be told at once."""

    name: str
    environment: Mapping[str, str]
    faults: list[Fault] = field(default_factory=list)
    secrets: Secrets = field(default_factory=Secrets)
    """What came from the environment; it is not printed."""

    def fault(self, entry: Entry, reason: str) -> None:
        """Remember what is wrong with an entry."""
        self.faults.append(Fault(entry.line, entry.path, reason))

    def check(self) -> None:
        """Raise `InvalidFile` if anything is wrong so far."""
        if self.faults:
            told = {Fault(one.line, one.path, self.hidden(one.reason)): None for one in self.faults}
            raise InvalidFile(self.name, list(told))

    def read(self, text: str) -> Entry:
        """The root of the file. Raises `InvalidFile` for what is no YAML at all."""
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            if node is None:
                return Entry({}, "", 1)
            if _size(node, {}) > MOST_VALUES:
                raise InvalidFile(
                    self.name, [Fault(1, "", f"with its aliases written out it has more than {MOST_VALUES} values")]
                )
            return self._entry(loader, node, "", ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark is not None else 1
            problem = ": ".join(part for part in (error.context, error.problem) if part)
            raise InvalidFile(self.name, [Fault(line, "", f"no valid YAML: {problem}")]) from None
        except (yaml.YAMLError, RecursionError) as error:
            is_deep = isinstance(error, RecursionError)
            reason = "it is nested too deeply" if is_deep else str(error).partition("\n")[0]
            raise InvalidFile(self.name, [Fault(1, "", f"no valid YAML: {reason}")]) from None

    def hidden(self, text: str) -> str:
        """The text with what came from the environment replaced by the names of the variables."""
        return self.secrets.hidden(text)

    def _entry(self, loader: Any, node: yaml.Node, path: str, above: tuple[yaml.Node, ...]) -> Entry:
        line = node.start_mark.line + 1
        if any(one is node for one in above):
            self.faults.append(Fault(line, path, "an alias that holds itself"))
            return Entry(None, path, line)
        above = (*above, node)
        match node:
            case yaml.ScalarNode():
                return self._scalar(loader, node, path)
            case yaml.SequenceNode():
                items = [self._entry(loader, one, f"{path}[{place}]", above) for place, one in enumerate(node.value)]
                return Entry(items, path, line)
            case yaml.MappingNode():
                return Entry(self._mapping(loader, node, path, above), path, line)
            case _:  # there are no other nodes
                raise AssertionError(node)

    def _mapping(
        self, loader: Any, node: yaml.MappingNode, path: str, above: tuple[yaml.Node, ...]
    ) -> dict[str, Entry]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.faults.append(Fault(key.start_mark.line + 1, path, "a key must be a text"))
            elif key.tag != _MERGE and key.value in seen:
                self.faults.append(Fault(key.start_mark.line + 1, _below(path, key.value), "is here twice"))
            else:
                seen.add(key.value)
        loader.flatten_mapping(node)
        return {
            key.value: self._entry(loader, value, _below(path, key.value), above)
            for key, value in node.value
            if isinstance(key, yaml.ScalarNode)
        }

    def _scalar(self, loader: Any, node: yaml.ScalarNode, path: str) -> Entry:
        line, tag, text = node.start_mark.line + 1, node.tag, node.value
        if "${" in text:
            text = _VARIABLE.sub(lambda found: self._variable(found, path, line), text)
            if node.style is None:  # what is written without quotes is a number if the variable is one
                tag = loader.resolve(yaml.ScalarNode, text, (True, False))
        if tag not in _SCALARS:
            self.faults.append(Fault(line, path, f"the tag {shown(tag)} is not supported"))
            return Entry(text, path, line, text)
        # A file in JSON writes what is beyond the first 65536 characters as two.
        text = _PAIR.sub(lambda found: found[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
        if tag in _TEXTS:
            is_number = node.style is None and _EXPONENT.fullmatch(text)
            return Entry(float(text) if is_number else text, path, line, text)
        try:
            return Entry(loader.construct_object(yaml.ScalarNode(tag, text)), path, line, text)
        except (ValueError, KeyError, yaml.YAMLError):  # such as an explicit !!int before a word
            self.faults.append(Fault(line, path, f"{shown(text)} is not what its tag says"))
            return Entry(text, path, line, text)

    def _variable(self, found: re.Match[str], path: str, line: int) -> str:
        name = found[1]
        if name is None:
            return "${"  # `$${` is how to write it
        if not _NAME.fullmatch(name):
            self.faults.append(
                Fault(line, path, f"{shown(found[0])} names no variable; ${{NAME}} does, $${{ is a plain ${{")
            )
            return ""
        value = self.environment.get(name)
        if value is None:
            self.faults.append(Fault(line, path, f"the environment variable {name} is not set"))
            return ""
        if not value:  # as CI systems give secrets that are not there
            self.faults.append(Fault(line, path, f"the environment variable {name} is empty"))
        self.secrets.add(value, name)
        return value


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node is with its aliases written out; one that holds itself counts once."""
    if id(node) not in known:
        known[id(node)] = 0
        children = node.value if not isinstance(node, yaml.ScalarNode) else ()
        parts = [part for one in children for part in (one if isinstance(one, tuple) else (one,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]
