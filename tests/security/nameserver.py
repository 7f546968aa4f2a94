"""A small DNS server of the tests' own: what a name means is said here, and may be another thing at every look-up."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import count

from tests.security.namespace import NAME_SERVER

A, CNAME, AAAA, OPT = 1, 5, 28, 41
NO_ERROR, SERVER_FAILURE, NO_SUCH_NAME = 0, 2, 3
MOST_IN_UDP = 512

Records = Sequence[str]
"""Addresses, and names for CNAMEs, in the order of the answer."""

Turns = Callable[[int], Records]
"""The records of the n-th look-up of a name, the first one being 0."""


class NameServer:
    """Answers on 127.0.0.53:53 over UDP and TCP, with a TTL of 0, for as long as the process lives.

    A and AAAA of one look-up are two queries; each is counted for itself.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._names: dict[str, Turns] = {}
        self._silent: set[str] = set()
        self._failing: set[str] = set()
        self._turns: dict[tuple[str, int], count[int]] = {}
        self._lock = threading.Lock()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((NAME_SERVER, 53))
        self._tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._tcp.bind((NAME_SERVER, 53))
        self._tcp.listen(64)
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def say(self, name: str, *records: str) -> str:
        """A name always means this. Gives the name."""
        return self.turn(name, lambda _: records)

    def turn(self, name: str, turns: Turns) -> str:
        """A name means another thing at each look-up. Gives the name."""
        with self._lock:
            self._names[name] = turns
            self._turns.pop((name, A), None)
            self._turns.pop((name, AAAA), None)
        return name

    def be_silent(self, name: str) -> str:
        """Nobody answers for this name. Gives the name."""
        self._silent.add(name)
        return name

    def fail(self, name: str) -> str:
        """The server is in trouble over this name. Gives the name."""
        self._failing.add(name)
        return name

    def _serve_udp(self) -> None:
        while True:
            query, client = self._udp.recvfrom(4096)
            answer = self._answer(query, MOST_IN_UDP)
            if answer is not None:
                self._udp.sendto(answer, client)

    def _serve_tcp(self) -> None:
        while True:
            connection, _ = self._tcp.accept()
            threading.Thread(target=self._serve_connection, args=(connection,), daemon=True).start()

    def _serve_connection(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while len(size := stream.read(2)) == 2:
                answer = self._answer(stream.read(struct.unpack("!H", size)[0]), 65535)
                if answer is not None:
                    connection.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, query: bytes, most: int) -> bytes | None:
        number, _, _, _, _, _ = struct.unpack_from("!6H", query)
        name, end = _read_name(query, 12)
        kind, _ = struct.unpack_from("!2H", query, end)
        question = query[12 : end + 4]
        name = name.lower()
        if name in self._silent:
            return None
        self.asked[name] += 1
        code = NO_ERROR
        answers: list[tuple[str, int, str]] = []
        if name in self._failing:
            code = SERVER_FAILURE
        else:
            known, answers = self._resolve(name, kind)
            code = NO_ERROR if known else NO_SUCH_NAME
        written = [_record(*one) for one in answers]
        head = struct.pack("!6H", number, 0x8580 | code, 1, len(written), 0, 0)
        answer = head + question + b"".join(written)
        if len(answer) > most:
            return struct.pack("!6H", number, 0x8780 | code, 1, 0, 0, 0) + question
        return answer

    def _resolve(self, name: str, kind: int) -> tuple[bool, list[tuple[str, int, str]]]:
        """Whether there is this name, and what an answer of a resolver holds: the chain of CNAMEs and its end."""
        answers: list[tuple[str, int, str]] = []
        for _ in range(20):
            records = self._records(name, kind)
            if records is None:
                return bool(answers), answers
            target = None
            for text in records:
                if (found := _kind(text)) == CNAME:
                    answers.append((name, CNAME, text))
                    target = text
                elif found == kind:
                    answers.append((name, kind, text))
            if target is None:
                return True, answers
            name = target
        return True, answers

    def _records(self, name: str, kind: int) -> Records | None:
        with self._lock:
            turns = self._names.get(name)
            if turns is None:
                return _spelled_out(name)
            turn = next(self._turns.setdefault((name, kind), count()))
        return turns(turn)


def _spelled_out(name: str) -> Records | None:
    """The address that a name below nip.test spells: `127.0.0.1.nip.test`, `app.7f000001.nip.test`, `0--1.nip.test`."""
    if not name.endswith(".nip.test"):
        return None
    labels = name.removesuffix(".nip.test").split(".")
    candidates = [".".join(labels[-4:]), labels[-1].replace("-", "."), labels[-1].replace("-", ":")]
    if len(labels[-1]) == 8:
        candidates.append(".".join(str(int(labels[-1][n : n + 2], 16)) for n in (0, 2, 4, 6)))
    for text in candidates:
        try:
            return [str(ip_address(text))]
        except ValueError:
            continue
    return None


def _kind(text: str) -> int:
    try:
        return A if ip_address(text).version == 4 else AAAA
    except ValueError:
        return CNAME


def _record(name: str, kind: int, text: str) -> bytes:
    data = _name(text) if kind == CNAME else ip_address(text).packed
    return _name(name) + struct.pack("!2HIH", kind, 1, 0, len(data)) + data


def _name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.rstrip(".").split(".")) + b"\0"


def _read_name(query: bytes, at: int) -> tuple[str, int]:
    labels = []
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode("latin-1"))
        at += 1 + size
    return ".".join(labels), at + 1
