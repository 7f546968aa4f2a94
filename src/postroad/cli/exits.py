"""The exit codes of the command line, which scripts may rely on."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What became of a command. What is refused or fails is told in one sentence on stderr."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    FAILED = 3
    CANCELED = 4
    NOT_ENDED = 5
    UNREACHABLE = 6
    DIFFERENT = 7


MEANINGS = """\
Exit codes: 0 done, 1 refused or not possible, 2 wrong usage, 6 the server cannot be reached,
7 apply --check has found something to do.

When a message is looked at or waited for: 0 completed, 3 failed, 4 canceled, 5 not ended, or not in time.
"""
"""For the help of the program."""
