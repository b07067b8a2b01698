"""Completion in a real interactive bash, on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 60.0
# Has the completion of the program, but prints its arguments instead of running a command.
STUB = f"""#!/bin/bash
if [[ $_GLLM_STORAGE_COMPLETE || $1 == completion ]]; then
    exec '{sys.executable}' -m gllm_storage.cli "$@"
fi
printf 'called:'
printf ' <%s>' "$@"
printf ' :end\\n'
"""
SET_UP = r"""PS1='$ '; bind 'set bell-style none'; bind 'set enable-bracketed-paste off'; bind 'set page-completions off'
eval "$(gllm-storage completion bash)"
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The current folder of bash, with a few files."""
    program = tmp_path / "bin" / "gllm-storage"
    program.parent.mkdir()
    program.write_text(STUB)
    program.chmod(0o755)
    folder = tmp_path / "here"
    (folder / "models").mkdir(parents=True)
    for name in ("weights.bin", "s3-notes.txt", "models/a file"):
        (folder / name).write_bytes(b"x")
    return folder


def typed(keys: str, here: Path) -> str:
    """Type keys into an interactive bash with the completion, and return the output of its terminal."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(here)
        env = {**os.environ, "TERM": "dumb", "HOME": str(here), "INPUTRC": os.devnull, "COLUMNS": "200"}
        env["PATH"] = f"{here.parent}/bin:{env['PATH']}"
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], env)  # noqa: S606 - the test needs a shell
    os.write(terminal, f"{SET_UP}{keys}\nexit\n".encode())
    shown = b""
    deadline = time.monotonic() + SECONDS
    poll = select.poll()  # as in tests.cli.support
    poll.register(terminal, select.POLLIN)
    while time.monotonic() < deadline:
        if not poll.poll(100):
            continue
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # Linux reports the end of bash as an error
            break
    else:
        os.kill(child, signal.SIGKILL)
    os.close(terminal)
    os.waitpid(child, 0)
    return shown.decode(errors="replace")


def words_of(keys: str, here: Path) -> list[str]:
    """The arguments that the program gets from a typed line with TABs."""
    called = re.search(r"called:(.*) :end", shown := typed(keys, here))
    assert called, shown
    return re.findall(r"<([^>]*)>", called[1])


# The X shows whether the completion added a space.
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cp az\tX", ["cp", "az://X"]),
        ("cp s3:\tX", ["cp", "s3://X"]),
        ("cp s3:/\tX", ["cp", "s3://X"]),
        ("cp weights.bin gs\tX", ["cp", "weights.bin", "gs://X"]),
        ("cp file:\tX", ["cp", "file:///X"]),
        ("cp s3://b/x  file:\tX", ["cp", "s3://b/x", "file:///X"]),
        ("ls abf\tX", ["ls", "abfs://X"]),
        ("cp wei\tX", ["cp", "weights.bin", "X"]),
        ("cp s3://b/x wei\tX", ["cp", "s3://b/x", "weights.bin", "X"]),
        ("cp mod\tX", ["cp", "models/X"]),
        ("cp models/\t az://", ["cp", "models/a file", "az://"]),
        ("cp s3-\tX", ["cp", "s3-notes.txt", "X"]),
        ("cp -c endpoint_u\tX", ["cp", "-c", "endpoint_url=X"]),
        ("exi\tX", ["exists", "X"]),
        ("cp --no-cl\tX", ["cp", "--no-clobber", "X"]),
    ],
)
def test_bash(line: str, words: list[str], here: Path) -> None:
    """A TAB completes the word, with a space after it only if the word is complete."""
    assert words_of(f"gllm-storage {line}", here) == words


def test_files_and_schemes(here: Path) -> None:
    """Local files and schemes are offered together."""
    shown = typed("gllm-storage cp s3\t\t", here)

    assert re.search(r"\bs3://\s+s3-notes\.txt|\bs3-notes\.txt\s+s3://", shown)


def test_colons_in_words(here: Path) -> None:
    """Completion works if bash does not split words at colons."""
    keys = "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}\ngllm-storage cp s3:\tX"

    assert words_of(keys, here) == ["cp", "s3://X"]


def test_scheme_without_space(here: Path) -> None:
    """No space follows a completed scheme."""
    (here / "s3-notes.txt").unlink()

    assert words_of("gllm-storage cp s3\tX", here) == ["cp", "s3://X"]
