"""Which methods of a client, and which of their arguments, the tests have used, of those that there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.contract.conftest import COVERAGE


class Methods:
    """What has been called of one client. What the tests leave out is given with the reason, by how its name begins."""

    def __init__(self, client: str, *, left_out: Mapping[str, str] | None = None) -> None:
        self.client = client
        self.left_out = left_out or {}
        self._existing: set[str] = set()
        self._called: set[str] = set()
        self._arguments: set[str] = set()
        self._given: set[str] = set()

    def exist(self, methods: Iterable[str], arguments: Iterable[str]) -> None:
        """Say what there is: `QStash.queue.get`, and `QStash.queue.get(queue)`."""
        self._existing |= {name for name in methods if not self._is_left_out(name)}
        self._arguments |= {name for name in arguments if not self._is_left_out(name)}

    def called(self, method: str, arguments: Iterable[str]) -> None:
        """Note a call that has succeeded."""
        assert method in self._existing, f"{self.client} has no {method}, or it is left out"
        self._called.add(method)
        self._given |= {f"{method}({name})" for name in arguments}
        COVERAGE[self.client] = (len(self._called), len(self._existing))

    def never_called(self) -> set[str]:
        """Methods and arguments that no test has used."""
        return (self._existing - self._called) | (self._arguments - self._given)

    def _is_left_out(self, name: str) -> bool:
        return any(name.startswith(beginning) for beginning in self.left_out)


def is_whole(session: pytest.Session, modules: Iterable[Path]) -> bool:
    """Whether these modules are run as a whole, not just some of their tests."""
    options = session.config.option
    chosen = options.keyword or options.markexpr or options.deselect or any("::" in one for one in session.config.args)
    return not chosen and {item.path for item in session.items} >= set(modules)
