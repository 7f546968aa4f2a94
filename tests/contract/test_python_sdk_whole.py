"""Nothing of the official Python client is left out. Its name makes this module the last of those of the client."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.methods import is_whole
from tests.contract.python_sdk import METHODS

MODULES = [path for path in Path(__file__).parent.glob("test_python_sdk*.py") if path.stem != "test_python_sdk_old"]


def test_every_method_of_the_client_was_called_with_each_of_its_arguments(request: pytest.FixtureRequest) -> None:
    """Says something only of a run of all modules of the client."""
    if is_whole(request.session, MODULES):
        assert METHODS.left_out == {}
        assert METHODS.never_called() == set()
