"""On the path of a Python process, has it write what it logs to a file too; see tests/security/log_watch.py.

Not by a handler: the product replaces those when it starts.
"""

import logging
import os
import traceback
from pathlib import Path
from typing import Any

DIRECTORY = "LOG_WATCH"

OWN = ("POSTROAD_TOKEN", "POSTROAD_ENCRYPTION_KEY")
"""What is secret whatever it looks like; a line with it is marked by what looks like one."""

MARK = f"canaryown{'0' * 24}"


def watch(directory: Path) -> None:
    """Write every record of this process to a file in the directory from now on."""
    make = logging.getLogRecordFactory()
    log = os.open(directory / f"{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    own = [value for name in OWN if (value := os.environ.get(name))]

    def made(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make(*arguments, **options)
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
        line = f"{record.levelname} {record.name} {record.getMessage()}\n{trace}"
        if any(secret in line for secret in own):
            line = f"{MARK} {line}"
        os.write(log, line.encode(errors="backslashreplace"))
        return record

    logging.setLogRecordFactory(made)


if DIRECTORY in os.environ:
    watch(Path(os.environ[DIRECTORY]))
