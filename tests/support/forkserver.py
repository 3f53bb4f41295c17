"""Starts processes of the program in milliseconds: it has imported the program, and forks.

Starting Python and importing the program takes a second of a core; a test that needs a process for
its own number, signals and death, and not for how it starts, takes one from here.

`python -m tests.support.forkserver` serves on its standard input, a Unix socket. It forks twice for
each request, so that the new process becomes the child of the process that asked (a subreaper),
which waits for it, signals it and kills it like any other. A daemon that it forks has a fork server
of its own for the processes beside it.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
_SIZE = struct.Struct("!I")
#: File numbers from here on are free in a fork server.
_HIGH = 100
#: The programs that start processes themselves.
_STARTING = (
    ["syncer", "daemon"],
    ["tests.support.door", "daemon"],
    ["syncer.daemon", "page"],
)
_COMMANDS = (
    "audit",
    "daemon",
    "failures",
    "forget",
    "runs",
    "state",
    "status",
    "sync",
    "traits",
    "verify",
)


@dataclass
class Request:
    """What to run."""

    #: what follows `python` and its switches: `-m module …` or `-c text …`
    words: list[str]
    environment: dict[str, str]
    folder: str
    #: the numbers that the open files have which go along
    files: list[int]


class Forker:
    """The asking end of a fork server."""

    def __init__(
        self, connection: socket.socket, server: subprocess.Popen[Any] | None = None
    ) -> None:
        self._connection, self._server = connection, server
        self._asking = threading.Lock()

    @classmethod
    def start(cls) -> Forker:
        """A fork server that ends with this process."""
        _adopt()
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-W", "error", "-m", "tests.support.forkserver"]
            return cls(ours, subprocess.Popen(command, stdin=theirs))

    @classmethod
    def fork_off(cls) -> tuple[Forker, Request | None]:
        """A fork server forked from this process, which must have one thread only. Returns its
        asking end; in each process that it forks later, returns with the request."""
        ours, theirs = socket.socketpair()
        if not os.fork():
            ours.close()
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(nothing, number)
            request = serve(theirs)
            if request is None:
                os._exit(0)
            return cls(ours), request
        theirs.close()
        _adopt()
        return cls(ours), None

    def close(self) -> None:
        """End the server."""
        self._connection.close()
        if self._server is not None:
            self._server.wait()

    def fork(self, request: Request, files: list[int]) -> int:
        """Start a process to which our `files` go as `request.files`. Returns its number."""
        body = json.dumps(asdict(request)).encode()
        with self._asking:
            socket.send_fds(self._connection, [_SIZE.pack(len(body))], files)
            self._connection.sendall(body)
            return int(_SIZE.unpack(_receive(self._connection, _SIZE.size))[0])


class Forked(subprocess.Popen[Any]):
    """A `Popen` whose process `forker` starts, where its command is a Python program."""

    forker: Forker

    def _execute_child(self, args: Any, *more: Any) -> None:
        words = _words(args)
        if words is None:
            super()._execute_child(args, *more)  # type: ignore[misc]
            return
        _executable, _preexec, _close, pass_fds, folder, environment, *rest = more
        pipes = rest[3:9]
        files = [pipes[place] if pipes[place] != -1 else at for at, place in enumerate((0, 3, 5))]
        request = Request(
            words,
            dict(os.environ if environment is None else environment),
            os.fspath(folder or os.getcwd()),
            [0, 1, 2, *pass_fds],
        )
        self.pid = self.forker.fork(request, [*files, *pass_fds])
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def _words(args: Any) -> list[str] | None:
    """The words of a Python program after `python` and its switches; None of another command."""
    if isinstance(args, str | bytes | os.PathLike) or args[0] != sys.executable:
        return None
    words = [os.fspath(word) for word in args[1:]]
    while words[:1] in (["-P"], ["-W"]):
        del words[: 1 if words[0] == "-P" else 2]
    return words if words[:1] in (["-m"], ["-c"]) else None


def serve(connection: socket.socket) -> Request | None:
    """Fork whenever asked. Returns the request in each process that it forks, and None when nobody
    can ask any more."""
    while True:
        size, files, _, _ = socket.recv_fds(connection, _SIZE.size, 32)
        if not size:
            return None
        request = Request(**json.loads(_receive(connection, *_SIZE.unpack(size))))
        reading, writing = os.pipe()
        between = os.fork()
        if not between:
            pid = os.fork()
            if not pid:
                _settle(request, files)
                connection.detach()  # it is closed
                return request
            os.write(writing, _SIZE.pack(pid))
            os._exit(0)
        os.waitpid(between, 0)  # from now on whoever asked is the parent
        connection.sendall(os.read(reading, _SIZE.size))
        for number in (reading, writing, *files):
            os.close(number)


def _settle(request: Request, files: list[int]) -> None:
    """Become as a process is at its start: keep no file, folder or variable of the fork server."""
    high = [fcntl.fcntl(number, fcntl.F_DUPFD, _HIGH) for number in files]
    for given, number in zip(high, request.files, strict=True):
        os.dup2(given, number)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in request.files:
            with suppress(OSError):  # it is the one that listed them
                os.close(number)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    tempfile.tempdir = None
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115


def _run(request: Request) -> None:
    """Be the program."""
    kind, program, *arguments = request.words
    with suppress(OSError), open("/proc/self/comm", "w") as name:
        name.write(arguments[0] if arguments else program)
    if kind == "-c":
        sys.argv = ["-c", *arguments]
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        return
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


def _adopt() -> None:
    """What our children leave behind becomes ours."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            raise EOFError("the fork server ended")
        received += piece
    return received


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    connection = socket.socket(fileno=os.dup(0))
    for command in _COMMANDS:
        import_module(f"syncer.cli.{command}")
    for module in (
        "daemon.worker",
        "daemon.run_process",
        "daemon.service",
        "web.server",
        "web.task_process",
    ):
        import_module(f"syncer.{module}")
    import_module("tests.support.hurry").hurry()
    with suppress(ImportError):
        import_module("psycopg")  # what a process on PostgreSQL loads when it connects
    gc.freeze()  # else each process would write to all these pages as it ends
    with connection:
        request = serve(connection)
    if request is None:
        return
    while request.words[1:3] in _STARTING:
        Forked.forker, beside = Forker.fork_off()
        if beside is None:
            subprocess.Popen = Forked  # type: ignore[misc]
            break
        request = beside
    _run(request)


if __name__ == "__main__":
    main()
