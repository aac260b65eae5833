"""The embedded PostgreSQL: started, shared, killed and found again, with real processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from postgres import temporary_folder

from payfirst.errors import OperatorError
from payfirst.local import postgres as embedded_postgres
from payfirst.local import postgres_host
from payfirst.local.postgres import EmbeddedPostgres, embedded, redacted
from payfirst.local.postgres_host import binaries, memory_bytes, shared_buffers_mb

DEADLINE_S = 30
POLL_S = 0.02
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="about what root may not do")
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")

# A payfirst process: it prints the url, then obeys one line of its input.
USER = """
import os, signal, sys
# A test run that a shell started in the background ignores interrupts, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from payfirst.local.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.start(), flush=True)
match sys.stdin.readline().strip():
    case "stop":
        server.stop()
    case "fork":
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        os.waitpid(child, 0)
        print("forked", flush=True)
        sys.stdin.readline()
"""

User = subprocess.Popen[str]


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A cluster that was made, used once and stopped: initdb is the slow part, so the others are its copies."""
    with temporary_folder() as parent:
        try:
            with embedded(parent / "postgres"):
                pass
            yield parent / "postgres"
        finally:
            end_server(parent / "postgres")


@pytest.fixture
def empty_folder(open_folder: Path) -> Iterator[Path]:
    """Where an embedded server may be made; its processes are ended with the test."""
    yield open_folder / "postgres"
    end_server(open_folder / "postgres")


@pytest.fixture
def folder(made: Path, empty_folder: Path) -> Path:
    """A folder with a stopped cluster."""
    subprocess.run(["cp", "-a", str(made), str(empty_folder)], check=True)
    return empty_folder


@pytest.fixture
def spawn() -> Iterator[Callable[[Path], User]]:
    """Starts payfirst processes that use a folder; all of them are ended with the test."""
    started: list[User] = []

    def start(folder: Path) -> User:
        user = subprocess.Popen(
            [sys.executable, "-c", USER, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(user)
        return user

    yield start
    for user in started:
        user.kill()
        user.wait()
        for stream in (user.stdin, user.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddedPostgres]:
    """One server for the tests that only look."""
    with temporary_folder() as parent:
        server = EmbeddedPostgres(parent / "postgres")
        try:
            server.start()
            yield server
        finally:
            server.stop()
            end_server(parent / "postgres")


def said(user: User) -> str:
    """The next line that the process prints; empty at its end."""
    assert user.stdout is not None
    return user.stdout.readline().strip()


def tell(user: User, line: str) -> None:
    """Let the process go on."""
    assert user.stdin is not None
    user.stdin.write(line + "\n")
    user.stdin.flush()


def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`, but not for ever."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(POLL_S)


def server_processes(folder: Path) -> list[int]:
    """Every process of a server of `folder`, found by its working directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink() == folder / "data":
                found.append(int(entry.name))
    return found


def kill_everything(folder: Path) -> None:
    """kill -9 of each process of the server, and no process else."""

    def none_left() -> bool:
        left = server_processes(folder)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    until(none_left)


def end_server(folder: Path) -> None:
    """Leave no process behind; an immediate shutdown first, because it gives the shared memory back."""
    processes = server_processes(folder)
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, AssertionError):
        if postmaster_pid(folder) in processes:
            os.kill(postmaster_pid(folder), signal.SIGQUIT)
            until(lambda: not server_processes(folder))
    kill_everything(folder)


def postmaster_pid(folder: Path) -> int:
    """The first line of postmaster.pid."""
    return int((folder / "data" / "postmaster.pid").read_text().split()[0])


def parents_of_servers(folder: Path) -> set[int]:
    """The parents of the server's processes, the postmaster itself aside."""
    parents = set()
    for pid in server_processes(folder):
        with contextlib.suppress(OSError):  # a background worker may be gone by now
            if pid != postmaster_pid(folder):
                parents.add(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]))
    return parents


def query(url: str, sql: str) -> str:
    """What psql prints; raises CalledProcessError when the server refuses."""
    command = [str(binaries() / "psql"), "-X", "-w", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S).stdout.strip()


def write_pid_file(folder: Path, pid: int) -> None:
    """What a postmaster with the number `pid` leaves behind when it is killed."""
    path, data = folder / "data" / "postmaster.pid", folder / "data"
    path.write_text(f"{pid}\n{data}\n{int(time.time())}\n1\n\n127.0.0.1\n\nready   \n")
    os.chown(path, data.stat().st_uid, data.stat().st_gid)


# What one gets


async def test_asyncpg_connects(running: EmbeddedPostgres) -> None:
    """The url is one that asyncpg takes."""
    connection = await asyncpg.connect(running.url)
    try:
        assert await connection.fetchval("SELECT current_database() || ' ' || current_user") == "payfirst payfirst"
    finally:
        await connection.close()


def test_psql_connects(running: EmbeddedPostgres) -> None:
    """The url is one that psql takes, and behind it is PostgreSQL 18."""
    assert query(running.url, "SHOW server_version").startswith("18.")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
        ("min_wal_size", "512MB"),
        ("max_wal_size", "4GB"),
        ("wal_compression", "off"),
        ("max_connections", "200"),
        ("jit", "off"),
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("log_rotation_size", "10MB"),
        ("password_encryption", "scram-sha-256"),
    ],
)
def test_setting(running: EmbeddedPostgres, setting: str, value: str) -> None:
    """A setting that durability, safety or two cores ask for is in force."""
    assert query(running.url, f"SHOW {setting}") == value


def test_it_may_keep_an_eighth_of_the_memory(running: EmbeddedPostgres) -> None:
    """Within bounds; by itself it takes what it has something to keep in."""
    pages = query(running.url, "SELECT setting FROM pg_settings WHERE name = 'shared_buffers'")
    assert int(pages) * 8_192 == shared_buffers_mb(memory_bytes()) * 2**20
    gib = 2**30
    assert [shared_buffers_mb(memory) for memory in (0, gib // 2, 4 * gib, 16 * gib, 512 * gib)] == [
        128, 128, 512, 2_048, 2_048
    ]  # fmt: skip


def test_a_container_has_what_it_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what its host has; and "max" is no limit."""
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(postgres_host, "CGROUP_MEMORY", limit)
    machine = memory_bytes()
    limit.write_text("max\n", encoding="ascii")
    assert memory_bytes() == machine > 2**28
    limit.write_text(f"{2**28}\n", encoding="ascii")
    assert memory_bytes() == 2**28


def test_each_way_in_asks_for_the_password(running: EmbeddedPostgres) -> None:
    """No line of pg_hba.conf trusts anybody."""
    assert query(running.url, "SELECT DISTINCT auth_method FROM pg_hba_file_rules") == "scram-sha-256"


def test_a_wrong_password_is_refused(running: EmbeddedPostgres) -> None:
    """The password in the url is needed, also from this machine."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        query(running.url.replace("payfirst:", "payfirst:x", 1), "SELECT 1")
    assert "password authentication failed" in caught.value.stderr


def test_the_password_file_is_private(running: EmbeddedPostgres) -> None:
    """Only the owner may read the password, and the cluster."""
    assert (running.folder / "password").stat().st_mode & 0o777 == 0o600
    assert (running.folder / "data").stat().st_mode & 0o077 == 0


def test_the_redacted_url_holds_no_password(running: EmbeddedPostgres) -> None:
    """What is printed shows where the server is and not how to get in."""
    password = (running.folder / "password").read_text().strip()
    assert password in running.url
    assert password not in running.redacted_url
    assert password not in repr(running)
    assert running.redacted_url.startswith("postgresql://payfirst:***@127.0.0.1:")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p:w@h:1/d", "postgresql://u:***@h:1/d"),
        ("postgresql://u:p@w@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d?password=p&x=1", "postgresql://u@h/d?password=***&x=1"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
    ],
)
def test_redacted(url: str, shown: str) -> None:
    """A password is replaced in either place a database url can hold it, and nothing else is."""
    assert redacted(url) == shown


def test_the_log_is_in_the_folder(running: EmbeddedPostgres) -> None:
    """The server writes where the user can look."""
    assert any("database system is ready" in path.read_text() for path in (running.folder / "log").glob("*.log"))


@NEEDS_ROOT
@NEEDS_PROC
def test_root_runs_it_as_nobody(running: EmbeddedPostgres) -> None:
    """PostgreSQL refuses root, so the server and its data belong to an unprivileged user."""
    nobody = pwd.getpwnam("nobody").pw_uid
    assert (running.folder / "data").stat().st_uid == nobody
    assert Path(f"/proc/{postmaster_pid(running.folder)}").stat().st_uid == nobody


# Starting and stopping


def test_a_restart_keeps_port_password_and_rows(folder: Path) -> None:
    """The url of yesterday is good today, and what was stored is there."""
    with embedded(folder) as first:
        query(first, "CREATE TABLE kept AS SELECT 7 AS n")
    assert server_processes(folder) == []
    with embedded(folder) as second:
        assert second == first
        assert query(second, "SELECT n FROM kept") == "7"


def test_a_taken_port_is_replaced(folder: Path) -> None:
    """Another program on the kept port moves the server to another one."""
    port = int((folder / "port").read_text())
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with embedded(folder) as url:
            assert query(url, "SELECT inet_server_port()") == (folder / "port").read_text().strip() != str(port)


def test_the_shell_s_variables_do_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that the user set for another server do not reach this one."""
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGOPTIONS", "-c nonsense=1")
    with embedded(folder) as url:
        monkeypatch.undo()
        assert query(url, "SELECT 1") == "1"


def test_start_and_stop_twice(folder: Path) -> None:
    """The second start changes nothing, and neither does the second stop."""
    server = EmbeddedPostgres(folder)
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.url
    assert server.start() == server.start()
    server.stop()
    server.stop()
    assert server_processes(folder) == []


def test_custom_conf_wins(folder: Path) -> None:
    """The operator's own settings come after ours, and survive a start."""
    (folder / "custom.conf").write_text("max_connections = 17\n")
    with embedded(folder) as url:
        assert query(url, "SHOW max_connections") == "17"


def test_old_log_files_go(folder: Path) -> None:
    """Each start begins a log file, and only the newest stay."""
    for day in range(30):
        (folder / "log" / f"postgresql-202001{day:02}-000000.log").write_text("old")
    with embedded(folder):
        pass
    left = sorted(path.name for path in (folder / "log").glob("postgresql-*.log"))
    assert len(left) <= embedded_postgres.LOG_FILES_MAX
    assert not left[-1].startswith("postgresql-2020")


# What goes wrong, in words


def test_another_major_version_is_refused(folder: Path) -> None:
    """A cluster of another PostgreSQL is left as it is, and the operator learns what to do."""
    (folder / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(OperatorError, match=r"made by PostgreSQL 17, and this payfirst carries 18: dump it"):
        EmbeddedPostgres(folder).start()
    assert (folder / "data" / "PG_VERSION").read_text() == "17\n"


def test_initdb_s_own_words_are_shown(empty_folder: Path) -> None:
    """When the disk takes no more, initdb says so, and no half cluster stays behind."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OperatorError, match=r"(?s)initdb failed in .*(could not|File too large|exited with)"):
            EmbeddedPostgres(empty_folder).start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (empty_folder / "data").exists()
    assert not (empty_folder / "data.new").exists()
    with embedded(empty_folder) as url:
        assert query(url, "SELECT 1") == "1"


def test_the_server_s_own_words_are_shown(folder: Path) -> None:
    """A setting that the server does not know is named in the error."""
    (folder / "custom.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(OperatorError, match="no_such_setting"):
        EmbeddedPostgres(folder).start()


def test_half_an_initdb_is_thrown_away(empty_folder: Path) -> None:
    """What an initdb that was killed left behind does not stop the next."""
    (empty_folder / "data.new").mkdir(parents=True)
    (empty_folder / "data.new" / "PG_VERSION").write_text("18\n")
    with embedded(empty_folder) as url:
        assert query(url, "SELECT 1") == "1"
    assert not (empty_folder / "data.new").exists()


def test_a_lost_password_is_named(folder: Path) -> None:
    """Without its password file the cluster is left alone."""
    (folder / "password").unlink()
    with pytest.raises(OperatorError, match="password is missing"):
        EmbeddedPostgres(folder).start()


def test_a_wrong_password_file_is_named(folder: Path) -> None:
    """A password that the server refuses is no reason to wait."""
    (folder / "password").write_text("another\n")
    with pytest.raises(OperatorError, match="refuses the password in"):
        EmbeddedPostgres(folder).start()
    assert server_processes(folder) == []


def test_a_path_that_pg_ctl_cannot_quote_is_refused(open_folder: Path) -> None:
    """A folder whose name the shell would read is refused before anything is made."""
    with pytest.raises(OperatorError, match="choose another data_dir"):
        EmbeddedPostgres(open_folder / "a$b").start()
    assert not (open_folder / "a$b").exists()


def test_a_path_with_spaces_and_quotes_works(open_folder: Path) -> None:
    """Everything else that people call a folder is fine."""
    folder = open_folder / "it's 好 here"
    try:
        with embedded(folder) as url:
            assert query(url, "SELECT 1") == "1"
    finally:
        end_server(folder)


@NEEDS_ROOT
def test_a_folder_out_of_nobody_s_reach_is_named(open_folder: Path) -> None:
    """As root, a parent that the server's user may not enter is named, with what to do."""
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(OperatorError, match=rf"may not enter {closed}, .*chmod o\+x {closed}"):
        EmbeddedPostgres(closed / "postgres").start()


@NEEDS_ROOT
def test_a_cluster_of_root_is_named(folder: Path) -> None:
    """A cluster that was copied as root tells how to give it back."""
    os.chown(folder / "data", 0, 0)
    with pytest.raises(OperatorError, match="belongs to root"):
        EmbeddedPostgres(folder).start()


# Several users


def test_the_last_user_stops_it(folder: Path, spawn: Callable[[Path], User]) -> None:
    """While another process uses the server it stays; the last one to leave stops it."""
    first, second = spawn(folder), spawn(folder)
    url = said(first)
    assert said(second) == url
    tell(first, "stop")
    assert first.wait(DEADLINE_S) == 0
    assert query(url, "SELECT 1") == "1"
    tell(second, "stop")
    assert second.wait(DEADLINE_S) == 0
    assert server_processes(folder) == []


def test_a_process_that_forgets_to_stop_it_still_does(folder: Path, spawn: Callable[[Path], User]) -> None:
    """An ordinary exit counts as leaving."""
    user = spawn(folder)
    assert said(user)
    tell(user, "leave")
    assert user.wait(DEADLINE_S) == 0
    assert server_processes(folder) == []


def test_a_forked_child_stops_nothing(folder: Path, spawn: Callable[[Path], User]) -> None:
    """Only the process that started to use the server can leave it."""
    user = spawn(folder)
    url = said(user)
    tell(user, "fork")
    assert said(user) == "forked"
    assert query(url, "SELECT 1") == "1"


def test_four_at_once_make_one_server(empty_folder: Path, spawn: Callable[[Path], User]) -> None:
    """Processes that meet at an empty folder end with one cluster and one postmaster."""
    users = [spawn(empty_folder) for _ in range(4)]
    urls = {said(user) for user in users}
    assert len(urls) == 1
    assert query(urls.pop(), "SELECT 1") == "1"
    assert parents_of_servers(empty_folder) == {postmaster_pid(empty_folder)}


def test_two_folders_do_not_meet(folder: Path, open_folder: Path) -> None:
    """Neither the lock nor the end of one folder's server touches another's."""
    other = open_folder / "other"
    try:
        with embedded(folder) as url:
            with (folder / "start.lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                with embedded(other) as second:
                    assert query(second, "SELECT 1") == "1"
            assert query(url, "SELECT 1") == "1"
    finally:
        end_server(other)


def test_a_start_that_hangs_is_not_waited_for_for_ever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is not given back ends in a sentence."""
    monkeypatch.setattr(embedded_postgres, "LOCK_TIMEOUT_S", 0.1)
    with (folder / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OperatorError, match="has been starting or stopping PostgreSQL"):
            EmbeddedPostgres(folder).start()


def test_ctrl_c_does_not_reach_the_server(folder: Path, spawn: Callable[[Path], User]) -> None:
    """The terminal's interrupt goes to payfirst's process group, and the server is in another."""
    user = spawn(folder)
    url = said(user)
    pid = postmaster_pid(folder)
    with embedded(folder):  # so that the server has a user when the interrupted one is gone
        os.killpg(user.pid, signal.SIGINT)
        assert user.wait(DEADLINE_S) != 0
        assert query(url, "SELECT 1") == "1"
        assert postmaster_pid(folder) == pid
        assert os.getsid(pid) != user.pid


# kill -9


def test_a_killed_supervisor_s_server_is_found_again(folder: Path, spawn: Callable[[Path], User]) -> None:
    """The server lives on, the next process uses the same one, and stops it at its end."""
    user = spawn(folder)
    url = said(user)
    pid = postmaster_pid(folder)
    user.kill()
    user.wait()
    with embedded(folder) as again:
        assert (again, postmaster_pid(folder)) == (url, pid)
        assert query(again, "SELECT 1") == "1"
    assert server_processes(folder) == []


def test_kill_of_everything_loses_nothing_acknowledged(folder: Path, spawn: Callable[[Path], User]) -> None:
    """After kill -9 of payfirst and of every process of the server each committed row is there."""
    user = spawn(folder)
    url = said(user)
    query(url, "CREATE TABLE kept (n int); INSERT INTO kept SELECT generate_series(1, 1000)")
    user.kill()
    user.wait()
    kill_everything(folder)
    assert (folder / "data" / "postmaster.pid").exists()
    with embedded(folder) as again:
        assert query(again, "SELECT count(*) FROM kept") == "1000"


def test_a_killed_postmaster_is_replaced(folder: Path) -> None:
    """When the postmaster alone is killed, its backends are waited for and a new server takes over."""
    with embedded(folder) as url:
        session = subprocess.Popen(
            [str(binaries() / "psql"), "-X", "-A", "-t", url], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with session:
            tell(session, "SELECT 1;")
            assert said(session) == "1"
            pid = postmaster_pid(folder)
            os.kill(pid, signal.SIGKILL)
            with embedded(folder) as again:
                assert query(again, "SELECT 1") == "1"
                assert postmaster_pid(folder) != pid


def test_a_server_that_is_stopping_is_waited_for(folder: Path, spawn: Callable[[Path], User]) -> None:
    """A server that was just told to stop is followed by a new one, never joined by one."""
    user = spawn(folder)
    assert said(user)
    user.kill()
    user.wait()
    pid = postmaster_pid(folder)
    os.kill(pid, signal.SIGINT)
    with embedded(folder) as url:
        assert query(url, "SELECT 1") == "1"
        assert postmaster_pid(folder) != pid


@NEEDS_PROC
@pytest.mark.parametrize("state", ["living", "zombie"])
def test_a_pid_used_again_is_not_taken_for_the_server(folder: Path, state: str) -> None:
    """A stale pid file that names another program, or a zombie, does not stop the start."""
    owner = (folder / "data").stat()
    as_root = os.geteuid() == 0
    other = subprocess.Popen(
        ["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/",
        user=owner.st_uid if as_root else None,  # PostgreSQL would believe it only of its own user
    )  # fmt: skip
    with other:
        if state == "zombie":
            other.kill()
            until(lambda: ") Z " in Path(f"/proc/{other.pid}/stat").read_text())
        write_pid_file(folder, other.pid)
        with embedded(folder) as url:
            assert query(url, "SELECT 1") == "1"
            assert postmaster_pid(folder) != other.pid
        assert (other.poll() is None) == (state == "living")


def test_an_empty_pid_file_is_outlived(folder: Path) -> None:
    """A pid file that a power cut left empty does not stop the start."""
    write_pid_file(folder, 0)
    (folder / "data" / "postmaster.pid").write_text("")
    with embedded(folder) as url:
        assert query(url, "SELECT 1") == "1"
