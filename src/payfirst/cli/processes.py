"""The processes that serve: forked, each with a socket of its own at the one port, and replaced when one falls."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkProcess

from payfirst.errors import OperatorError
from payfirst.ops import log

# Longer than the application takes to let running requests end and to close; shorter than `payfirst up` waits for us.
STOP_TIMEOUT_S = 17.0
# So many falls in a row, each sooner than this after the start, are a fault that another start does not mend.
FALLS_MAX = 3
SOON_S = 5.0
RESTART_S = 0.5

_STOPS = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1

# What a process does with its socket; its exit code.
Serve = Callable[[socket.socket], int]


def listen(host: str, port: int, *, count: int, backlog: int) -> list[socket.socket]:
    """So many sockets that share the port: the kernel spreads connections over them.

    They are the supervisor's, so that what has connected waits for the next process while one is replaced.
    Raises OperatorError when somebody else listens there, or the address is not this machine's.
    """
    listeners: list[socket.socket] = []
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Shared among ours only: without the option this fails where another payfirst shares the port, too.
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
        for _number in range(count):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            listener.listen(backlog)
    except OSError as error:
        for listener in listeners:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            raise OperatorError(
                f"Port {port} on {host} is taken. Stop what listens there, or set server.port"
                " (PAYFIRST_SERVER__PORT) to another."
            ) from error
        raise OperatorError(
            f"Cannot listen on {host} port {port}: {error.strerror}. Check server.host and server.port."
        ) from error
    return listeners


def supervise(listeners: Sequence[socket.socket], serve: Serve) -> None:
    """Keep a process serving at each socket until SIGTERM or SIGINT; then end them, and return.

    Exits with 1 when one cannot be kept alive. The sockets are closed at the end.
    """
    with _asked_to_stop() as asked:
        children = [_Child(listener, serve, others=listeners) for listener in listeners]
        try:
            is_kept = all(child.start() for child in children) and _keep(children, asked)
        finally:
            for listener in listeners:
                listener.close()
            _end(children)
    if not is_kept:
        log.get_logger(role="api").error(
            "http_server", message="The processes that serve cannot be kept alive: what they said is above"
        )
        sys.exit(1)


class _Child:
    """One process, and the socket that outlives it."""

    def __init__(self, listener: socket.socket, serve: Serve, *, others: Sequence[socket.socket]) -> None:
        self._listener = listener
        self._serve = serve
        self._others = [other for other in others if other is not listener]
        self._started_at = 0.0
        self.falls = 0  # in a row, soon after the start
        self._process: ForkProcess | None = None

    def start(self) -> bool:
        """Once more; False, and a line in the log, where the system makes no process."""
        self._started_at = time.monotonic()
        process = multiprocessing.get_context("fork").Process(target=self._run, args=(os.getpid(),))
        # A signal that comes before the process has its own ways to take it waits until then.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            process.start()
        except OSError as error:
            log.get_logger(role="api").error("http_server", message=f"No process can be started: {error.strerror}")
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._process = process
        return True

    @property
    def process(self) -> ForkProcess:
        """The one that was started last."""
        if self._process is None:
            raise RuntimeError("it was never started")
        return self._process

    def fell(self) -> None:
        """Note that it has ended, unasked."""
        self.process.join()
        self.falls = self.falls + 1 if time.monotonic() - self._started_at < SOON_S else 1
        log.get_logger(role="api").error(
            "http_server",
            message=f"A serving process ended by itself ({_ending(self.process.exitcode)}): another takes its place",
            pid=self.process.pid,
        )

    def ask_to_end(self) -> None:
        """By SIGTERM, if it runs."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, *, until: float) -> None:
        """For its end, by the clock of time.monotonic; then it is killed."""
        if self._process is None:
            return
        self._process.join(max(0.0, until - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _run(self, parent: int) -> None:
        signal.set_wakeup_fd(-1)
        for number in _STOPS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        _die_with(parent)
        for other in self._others:
            other.close()
        sys.exit(self._serve(self._listener))


def _keep(children: Sequence[_Child], asked: socket.socket) -> bool:
    """Return when asked to stop; False when a process falls again and again."""
    while True:
        by_sentinel = {child.process.sentinel: child for child in children}
        ready = multiprocessing.connection.wait([asked, *by_sentinel])
        if asked in ready:
            return True
        for child in (by_sentinel[sentinel] for sentinel in by_sentinel if sentinel in ready):
            child.fell()
            if child.falls >= FALLS_MAX:
                return False
            if child.falls > 1:
                time.sleep(RESTART_S)
            child.start()  # where that fails, it has fallen again


def _end(children: Sequence[_Child]) -> None:
    for child in children:
        child.ask_to_end()
    until = time.monotonic() + STOP_TIMEOUT_S
    for child in children:
        child.wait(until=until)


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[socket.socket]:
    """A socket that has something to read once a SIGTERM or SIGINT has come."""
    reading, writing = socket.socketpair()
    with reading, writing:
        writing.setblocking(False)
        before = [signal.signal(number, lambda _number, _frame: None) for number in _STOPS]
        woken_before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield reading
        finally:
            signal.set_wakeup_fd(woken_before)
            for number, handler in zip(_STOPS, before, strict=True):
                signal.signal(number, handler)


def _ending(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"code {code}"


def _die_with(parent: int) -> None:
    """Have the kernel stop this process when its parent is killed; else it would keep the port, unsupervised."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the call
            sys.exit(1)
