"""Disks in trouble: one that is full, and one whose writes take their time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOSPC
from pathlib import Path

from tests.faults.postgres import PostgresServer

DISK_BYTES = 220 << 20

_PIECE = bytes(1 << 16)

_SLOW_SYNC = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void linger(void) {
    double seconds = 0;
    FILE *file = fopen(getenv("LD_SLOW_SYNC"), "r");
    if (file == NULL) return;
    if (fscanf(file, "%lf", &seconds) != 1) seconds = 0;
    fclose(file);
    struct timespec left = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    while (nanosleep(&left, &left) != 0) {}
}

int fdatasync(int fd) { linger(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
int fsync(int fd) { linger(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
"""
"""Goes between PostgreSQL and the C library. PostgreSQL holds the same locks meanwhile as when a disk is slow."""


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of its own of a few megabytes, for which one must be root."""
    place.mkdir(mode=0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0755", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


class Ballast:
    """A file that takes what is free on a disk."""

    def __init__(self, disk: Path) -> None:
        self._file = disk / "ballast"

    def load(self) -> None:
        """Take all that is free now."""
        with self._file.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(_PIECE)
            except OSError as error:
                if error.errno != ENOSPC:
                    raise

    def drop(self) -> None:
        """Give everything back."""
        self._file.unlink(missing_ok=True)


def move_wal(server: PostgresServer, place: Path) -> None:
    """Put the log of a server that has not started yet on another file system."""
    here = server.data / "pg_wal"
    place.mkdir(mode=0o700)
    server.account.own(place)
    subprocess.run(["cp", "-a", f"{here}/.", place], check=True)
    subprocess.run(["rm", "-r", here], check=True)
    here.symlink_to(place)
    server.account.own(here)


class SlowSync:
    """What every fsync of a server waits for before it begins, zero at first. Needs a C compiler."""

    def __init__(self, directory: Path) -> None:
        self._seconds = directory / "slow-sync"
        self._library = directory / "slow-sync.so"
        self._seconds.write_text("0")
        source = directory / "slow-sync.c"
        source.write_text(_SLOW_SYNC)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", self._library, source, "-ldl"], check=True)

    def set(self, seconds: float) -> None:
        """Let each take so much longer from now on."""
        with suppress(FileNotFoundError):
            draft = self._seconds.with_suffix(".draft")
            draft.write_text(str(seconds))
            draft.replace(self._seconds)

    @contextmanager
    def preloaded(self) -> Iterator[None]:
        """Servers that are started meanwhile have it."""
        os.environ |= {"LD_PRELOAD": str(self._library), "LD_SLOW_SYNC": str(self._seconds)}
        try:
            yield
        finally:
            del os.environ["LD_PRELOAD"], os.environ["LD_SLOW_SYNC"]
