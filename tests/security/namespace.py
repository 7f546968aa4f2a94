"""A network of a process's own, with loopback only: no packet of a test can leave the machine, whatever is sent.

Run a module of this package in it with `apart`: a child process makes the namespaces for itself, and the `main` of
the module prints one line of JSON in the end. Unix sockets work across the border, so PostgreSQL stays outside.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCGIFINDEX, IFF_UP = 0x8913, 0x8914, 0x8933, 1
RTM_NEWADDR, NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE = 20, 1, 4, 0x400
IFA_LOCAL, IFA_ADDRESS, IFA_F_NODAD = 2, 1, 2
NLMSG_ERROR = 2

NAME_SERVER = "127.0.0.53"

ROOT = Path(__file__).parents[2]
_NETWORK = Path("/proc/self/ns/net")

_libc = ctypes.CDLL(None, use_errno=True)


def apart(module: str, *arguments: str, seconds: float = 60) -> Any:
    """What `python -m tests.security.namespace module ...` reports. A namespace that is not to be had is a failure."""
    command = [sys.executable, "-m", "tests.security.namespace", module, *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, f"{module} in a network namespace:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def enter(addresses: Sequence[str]) -> None:
    """Move this process, which must have one thread, into namespaces of its own; `addresses` are added to its loopback.

    Names are looked up at 127.0.0.53 alone, where nobody answers yet.
    """
    outside = _NETWORK.readlink()
    try:
        _unshare()
        _up("lo")
        for address in addresses:
            _add("lo", address)
        _only_name_server(NAME_SERVER)
    except OSError as error:
        sys.exit(
            "this test sends requests to addresses that must never be reached, so it needs a network namespace of its "
            f"own, and this machine gives none ({error}): allow `unshare -rn` (kernel.unprivileged_userns_clone, "
            "user.max_net_namespaces, a container's seccomp profile), or run the tests as root"
        )
    assert _NETWORK.readlink() != outside
    assert sorted(name for _, name in socket.if_nameindex() if _is_up(name)) == ["lo"]


def _unshare() -> None:
    uid, gid = os.getuid(), os.getgid()
    flags = CLONE_NEWNET | CLONE_NEWNS
    if _libc.unshare(flags) == 0:
        return
    _check(_libc.unshare(flags | CLONE_NEWUSER))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _is_up(name: str) -> bool:
    return bool(_flags(name) & IFF_UP)


def _flags(name: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, SIOCGIFFLAGS, struct.pack("16sh14x", name.encode(), 0))
    flags: int = struct.unpack("16sh14x", answer)[1]
    return flags


def _up(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, SIOCSIFFLAGS, struct.pack("16sh14x", name.encode(), _flags(name) | IFF_UP))


def _add(name: str, text: str) -> None:
    """Give an interface one more address: RTM_NEWADDR of rtnetlink(7)."""
    address = ip_address(text)
    family, prefix = (socket.AF_INET, 32) if address.version == 4 else (socket.AF_INET6, 128)
    body = struct.pack("BBBBI", family, prefix, IFA_F_NODAD, 0, socket.if_nametoindex(name))
    for kind in (IFA_LOCAL, IFA_ADDRESS):
        body += struct.pack("HH", 4 + len(address.packed), kind) + address.packed
    head = struct.pack("IHHII", 16 + len(body), RTM_NEWADDR, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.bind((0, 0))
        netlink.send(head + body)
        answer = netlink.recv(4096)
    kind, error = struct.unpack_from("H", answer, 4)[0], struct.unpack_from("i", answer, 16)[0]
    if kind != NLMSG_ERROR or error not in (0, -17):  # it is there already
        raise OSError(-error, f"{text} cannot be added to {name}: {os.strerror(-error)}")


def _only_name_server(address: str) -> None:
    """Look names up in our own hosts file and at this server, whatever this machine is set up to do."""
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    directory = Path(tempfile.mkdtemp(prefix="postroad-names-"))
    ours = {
        "/etc/resolv.conf": f"nameserver {address}\noptions timeout:1 attempts:2\n",
        "/etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
        "/etc/nsswitch.conf": "hosts: files dns\n",
    }
    for place, text in ours.items():
        source = directory / Path(place).name
        source.write_text(text)
        target = Path(place).resolve()
        if target.exists():
            _check(_libc.mount(str(source).encode(), str(target).encode(), None, MS_BIND, None))
        source.unlink()
    directory.rmdir()
    for asked in (Path("/run/nscd"), Path("/run/systemd/resolve")):
        if asked.is_dir():
            _check(_libc.mount(b"none", str(asked).encode(), b"tmpfs", 0, None))


def _check(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def main() -> None:
    """Enter, then run the `main` of the named module, whose `ADDRESSES` this network has beside those of loopback."""
    from importlib import import_module

    sys.argv = sys.argv[1:]
    name = sys.argv[0]
    # Importing starts no threads; whatever does comes later.
    module = import_module(f"tests.security.{name}")
    enter(module.ADDRESSES)
    module.main()


if __name__ == "__main__":
    main()
