"""Running the command line as its users do: as a process, with pipes or on a terminal."""

from __future__ import annotations

import atexit
import functools
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.rig import Rig

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

    def run(self, code: str, arguments: Sequence[str], env: Mapping[str, str], stdin: bytes, cwd: Path | None) -> Finished:
        """Run Python code with arguments, in a fork of the process."""
        request = {"code": code, "arguments": arguments, "env": dict(env), "cwd": os.fspath(cwd or os.getcwd())}
        with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
            given.write(stdin)
            given.seek(0)
            socket.send_fds(self._connection, [json.dumps(request).encode()], [each.fileno() for each in (given, out, err)])
            child, status = int(self._connection.recv(100)), self._status()
            if status is None:
                os.kill(child, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), SECONDS)
            return Finished(os.waitstatus_to_exitcode(status), *(_content(each) for each in (out, err)))

    def _status(self) -> int | None:
        self._connection.settimeout(SECONDS)
        try:
            return int(self._connection.recv(100))
        except TimeoutError:
            return None

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.wait()


@functools.cache
def template() -> Template:
    """The one of this test process."""
    found = Template()
    atexit.register(found.stop)
    return found


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def run(
    *arguments: str | Path, env: Mapping[str, str] | None = None, stdin: bytes = b"", cwd: Path | None = None
) -> Finished:
    """Run the command line without a terminal."""
    if any(name.startswith("PYTHON") for name in env or {}):  # the interpreter reads these when it starts
        return run_anew(PROGRAM, *arguments, env=env, stdin=stdin, cwd=cwd)
    return template().run(MAIN, [str(each) for each in arguments], {**os.environ, **(env or {})}, stdin, cwd)


def run_python(code: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Finished:
    """Run Python code in a process of its own, with `sys` and the `run` of the command line."""
    return template().run(PRELUDE + code, [str(each) for each in arguments], {**os.environ, **(env or {})}, b"", None)


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
    """As `run`, for what must succeed, and say nothing on standard error."""
    done = run(*arguments, env=env, stdin=stdin, cwd=cwd)
    assert (done.code, done.err) == (0, ""), done
    return done


def environment(rig: Rig) -> dict[str, str]:
    """Environment variables with the settings of a rig."""
    own = f"GLLM_STORAGE_{rig.provider.upper()}_"
    return {own + key.upper(): value for key, value in rig.config.items() if key not in {"bucket_name", "root"}}


def url_of(rig: Rig, name: str = "") -> str:
    """URL of an object, or of the folder, of a test."""
    return f"{rig.scheme}://{rig.base}{rig.prefix}/{name}"


def shown_url(rig: Rig, name: str = "") -> str:
    """How the command line names an object of a test: local ones by their path."""
    return url_of(rig, name).removeprefix("file://")


def as_in_a_terminal() -> None:
    """Let signals end a child: a shell that runs pytest in the background, and nohup, make its children ignore them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def started(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is to be interrupted."""
    with subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        preexec_fn=as_in_a_terminal,  # noqa: PLW1509 - the child execs at once
    ) as child:
        try:
            yield child
        finally:
            child.kill()


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
        stdout: Where standard output goes; the terminal if None.
        when: When a key is pressed; never if None.
        key: Which; Ctrl-C by default.

    Returns:
        Everything that the terminal showed, as `out`.
    """
    child, terminal = pty.fork()
    if child == 0:  # the terminal is its controlling one: Ctrl-C reaches it as it reaches a shell's child
        as_in_a_terminal()
        if stdout:
            os.dup2(os.open(stdout, os.O_WRONLY | os.O_CREAT), 1)
        os.execve(  # noqa: S606 - this very program
            sys.executable,
            [*PROGRAM, *map(str, arguments)],
            {**os.environ, "TERM": "xterm", "COLUMNS": "100", **(env or {})},
        )
    shown = b""
    deadline = time.monotonic() + SECONDS
    poll = select.poll()  # select.select takes no descriptor above 1023, and other tests leave many to the garbage collector
    poll.register(terminal, select.POLLIN)
    try:
        while time.monotonic() < deadline:
            ready = poll.poll(50)
            if when is not None and when():
                os.write(terminal, key)
                when = None
            if ready:
                try:
                    shown += os.read(terminal, 65536)
                except OSError:  # Linux: the child has closed its side
                    break
        else:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(terminal)
    _, status = os.waitpid(child, 0)
    return Finished(os.waitstatus_to_exitcode(status), shown.decode(errors="replace"), "")
