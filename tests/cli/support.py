"""Runs of the command line as a process: without a terminal, with pipes, or on a terminal."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

from gllm_storage.testing.faults import Fault, FaultProxy, Match, Throttle
from tests.promises.faulty import proxied
from tests.rig import MIB, Rig, server_rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.conftest import Servers

PROGRAM = [sys.executable, "-m", "gllm_storage.cli"]
PRELUDE = "import sys\nfrom gllm_storage.cli.app import run\n"
MAIN = "from gllm_storage.cli import main\nmain()"
SECONDS = 120.0


@dataclass(frozen=True)
class Finished:
    """A process that has ended.

    Attributes:
        code: Its exit code.
        out: Its standard output.
        err: Its standard error.
    """

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of its standard output."""
        return self.out.splitlines()


class Child:
    """A process of the command line that runs.

    Args:
        report: The pipe of `tests.cli.template` for its id and its wait status.
        stdin: The write end of its standard input.
        out: The file of its standard output.
        err: The file of its standard error.
    """

    def __init__(self, report: IO[bytes], stdin: IO[bytes], out: IO[bytes], err: IO[bytes]) -> None:
        self._report = report
        self._out = out
        self._err = err
        self._pid = int(report.readline())
        self.stdin = stdin
        self.returncode: int | None = None

    def send_signal(self, signum: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self._pid, signum)

    def poll(self) -> int | None:
        """The exit code; None while the process runs."""
        return self.returncode if self.returncode is not None or not self._has_ended(0) else self._ended()

    def wait(self, timeout: float) -> int:
        """Wait for the end of the process, at most so many seconds, and return the exit code."""
        if self.returncode is not None:
            return self.returncode
        assert self._has_ended(timeout), "the process did not end"
        return self._ended()

    def communicate(self, timeout: float) -> tuple[bytes, bytes]:
        """Wait for the end of the process, and return its standard output and standard error."""
        self.wait(timeout)
        return _content(self._out), _content(self._err)

    def finish(self) -> None:
        """Kill the process if it still runs."""
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)
            self.wait(SECONDS)

    def _has_ended(self, timeout: float) -> bool:
        poll = select.poll()  # select.select refuses descriptors above 1023
        poll.register(self._report, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def _ended(self) -> int:
        self.returncode = os.waitstatus_to_exitcode(int(self._report.readline()))
        return self.returncode


class Template:
    """The process of `tests.cli.template`, which starts a command within 20 ms."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.template", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            preexec_fn=as_in_a_terminal,  # noqa: PLW1509 - the child execs at once
        )
        theirs.close()

    @contextmanager
    def started(
        self,
        code: str,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
        stdout: int | None = None,
        terminal: int | None = None,
        cwd: Path | None = None,
    ) -> Iterator[Child]:
        """Run Python code in a process of its own, which is killed at the end of the block.

        Args:
            code: The code.
            *arguments: The arguments, in `sys.argv`.
            env: Further environment variables.
            stdin: The descriptor for standard input; a pipe if None.
            stdout: The descriptor for standard output; a temporary file if None.
            terminal: The controlling terminal, for the standard streams that are not given.
            cwd: The current folder.
        """
        request = {
            "code": code,
            "arguments": [str(each) for each in arguments],
            "env": {**os.environ, **(env or {})},
            "cwd": os.fspath(cwd or os.getcwd()),
            "terminal": terminal is not None,
        }
        (read_end, fed), (report, write_end) = os.pipe(), os.pipe()
        with (
            TemporaryFile() as out,
            TemporaryFile() as err,
            os.fdopen(report, "rb", 0) as reports,
            os.fdopen(fed, "wb", 0) as feed,
        ):
            defaults = [read_end, out.fileno(), err.fileno()] if terminal is None else [terminal] * 3
            given = [one if one is not None else other for one, other in zip((stdin, stdout, None), defaults, strict=True)]
            socket.send_fds(self._connection, [json.dumps(request).encode()], [*given, write_end])
            os.close(read_end)
            os.close(write_end)
            child = Child(reports, feed, out, err)
            try:
                yield child
            finally:
                child.finish()

    def run(
        self,
        code: str,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        stdout: IO[bytes] | None = None,
        cwd: Path | None = None,
    ) -> Finished:
        """Run Python code in a process of its own to its end. The arguments are the arguments of `started`."""
        with TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)
            out = stdout.fileno() if stdout else None
            with self.started(code, *arguments, env=env, stdin=given.fileno(), stdout=out, cwd=cwd) as child:
                shown, errors = child.communicate(SECONDS)
                return Finished(child.wait(0), shown.decode(errors="replace"), errors.decode(errors="replace"))

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.wait()


@functools.cache
def template() -> Template:
    """The template process of this test process."""
    found = Template()
    atexit.register(found.stop)
    return found


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def run(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    stdout: IO[bytes] | None = None,
    cwd: Path | None = None,
) -> Finished:
    """Run the command line without a terminal."""
    if any(name.startswith("PYTHON") for name in env or {}):  # the interpreter reads these when it starts
        assert stdout is None
        return run_anew(PROGRAM, *arguments, env=env, stdin=stdin, cwd=cwd)
    return template().run(MAIN, *arguments, env=env, stdin=stdin, stdout=stdout, cwd=cwd)


def run_python(code: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Finished:
    """Run Python code in a process of its own, with `sys` and the `run` of the command line."""
    return template().run(PRELUDE + code, *arguments, env=env)


def run_anew(
    program: list[str],
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
) -> Finished:
    """Run a program from its start, with pipes."""
    done = subprocess.run(
        [*program, *map(str, arguments)],
        check=False,
        input=stdin,
        capture_output=True,
        timeout=SECONDS,
        env={**os.environ, **(env or {})},
        cwd=cwd,
    )
    return Finished(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def ok(
    *arguments: str | Path, env: Mapping[str, str] | None = None, stdin: bytes = b"", cwd: Path | None = None
) -> Finished:
    """Like `run`, for a command that must succeed and print no error."""
    done = run(*arguments, env=env, stdin=stdin, cwd=cwd)
    assert (done.code, done.err) == (0, ""), done
    return done


def environment(rig: Rig) -> dict[str, str]:
    """Environment variables with the settings of a rig."""
    own = f"GLLM_STORAGE_{rig.provider.upper()}_"
    return {own + key.upper(): value for key, value in rig.config.items() if key not in {"bucket_name", "root"}}


def holds_file(folder: Path) -> bool:
    """Whether any process has a file of a folder open; the file may have no name."""
    return any(_target(each).startswith(f"{folder}/") for each in Path("/proc").glob("[0-9]*/fd/*"))


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # the process has ended, or has closed the file
        return ""


def url_of(rig: Rig, name: str = "") -> str:
    """URL of an object, or of the folder, of a test."""
    return f"{rig.scheme}://{rig.base}{rig.prefix}/{name}"


def shown_url(rig: Rig, name: str = "") -> str:
    """The name of an object in output: the path of a local one, the URL of others."""
    return url_of(rig, name).removeprefix("file://")


def as_in_a_terminal() -> None:
    """Let signals end a child: it ignores them if pytest runs in the background of a shell, or under nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def started(*arguments: str | Path, env: Mapping[str, str] | None = None) -> AbstractContextManager[Child]:
    """A command to interrupt; it is killed at the end of the block."""
    return template().started(MAIN, *arguments, env=env)


def on_terminal(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    stdout: Path | None = None,
    when: Callable[[], bool] | None = None,
    key: bytes = b"\x03",
) -> Finished:
    """Run the command line on a terminal of its own.

    Args:
        *arguments: Its arguments.
        env: Environment variables.
        stdout: The file for standard output; the terminal if None.
        when: The condition for the key press; no key is pressed if None.
        key: The key; Ctrl-C by default.

    Returns:
        All output of the terminal, as `out`.
    """
    terminal, theirs = os.openpty()
    shown = b""
    deadline = time.monotonic() + SECONDS
    poll = select.poll()  # select.select refuses descriptors above 1023, and other tests may leave many open
    poll.register(terminal, select.POLLIN)
    with ExitStack() as stack:
        stack.callback(os.close, terminal)
        out = stack.enter_context(stdout.open("wb")).fileno() if stdout else None
        env = {"TERM": "xterm", "COLUMNS": "100", **(env or {})}
        child = stack.enter_context(template().started(MAIN, *arguments, env=env, stdout=out, terminal=theirs))
        os.close(theirs)
        while time.monotonic() < deadline:
            ready = poll.poll(50)
            if when is not None and when():
                os.write(terminal, key)
                when = None
            if ready:
                try:
                    shown += os.read(terminal, 65536)
                except OSError:  # Linux reports the end of the child as an error
                    break
        return Finished(child.wait(SECONDS), shown.decode(errors="replace"), "")


@contextmanager
def slow(servers: Servers, *operations: str) -> Iterator[tuple[Rig, FaultProxy]]:
    """A server that is slow in these operations."""
    running = servers.s3("ministack")
    with FaultProxy(running.endpoint_url) as proxy:
        for operation in operations:
            proxy.inject(Fault(Match(operation=operation), Throttle(MIB // 2), times=None))
        yield proxied(server_rig("ministack", running), proxy), proxy
        assert proxy.errors == []
