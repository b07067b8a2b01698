"""Run the code blocks of one Markdown page, top to bottom, in the current folder: ``python -m tests.docs.page PAGE``.

Python blocks share one namespace, as in a session. Console blocks run in bash; the lines below a command are its output. A
line that ends with ``# -> text`` is an expression whose `repr` is that text. ``...`` in expected output matches anything.

A block that does not run carries a mark in the comment before it, with the reason:

    <!-- snippet: skip, it needs a bucket at Google -->
    <!-- snippet: not yet gllm_storage.testing:StoreSuite -->

"not yet" names an object that a later change adds; once it can be imported, the mark is an error.
"""

from __future__ import annotations

import ast
import atexit
import configparser
import contextlib
import doctest
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tomllib
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})\s*([\w+-]*)(.*)$")
_MARK = re.compile(r"<!-- snippet: (skip|not yet)[, ]+(.*?) *-->")
_SHOWN = re.compile(r"#\s*->\s*(.*)$")
_SECONDS = 120


class PageError(Exception):
    """A block of the page is wrong."""


@dataclass(frozen=True)
class Block:
    """One fenced code block.

    Attributes:
        line: Number of its first line of code in the page.
        language: The word behind the fence; empty if there is none.
        code: Its text.
        mark: ``"skip"``, ``"not yet"``, or empty.
        reason: The text of the mark.
    """

    line: int
    language: str
    code: str
    mark: str = ""
    reason: str = ""


def blocks_of(text: str) -> Iterator[Block]:
    """The code blocks of a page.

    Raises:
        PageError: If a fence is not closed, or a mark is not followed by a block.
    """
    lines = iter(enumerate(text.splitlines(), 1))
    mark: tuple[str, str] | None = None
    for number, line in lines:
        marked, fence = _MARK.search(line), _FENCE.match(line)
        if marked:
            mark = marked[1], marked[2]
        elif fence:
            code = list(_until(lines, fence, number))
            yield Block(number + 1, fence[3], "\n".join(code) + "\n", *(mark or ("", "")))
            mark = None
        elif line.strip() and mark:
            raise PageError(f"line {number}: the mark before this line belongs to no block")


def _until(lines: Iterator[tuple[int, str]], fence: re.Match[str], begin: int) -> Iterator[str]:
    indent, marker = fence[1], fence[2]
    for _, line in lines:
        if line.strip() == marker:
            return
        yield line.removeprefix(indent)
    raise PageError(f"line {begin}: the block is not closed")


class Page:
    """Runs blocks, one after the other.

    Args:
        path: The page, for messages.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._namespace: dict[str, Any] = {"__name__": "__main__"}
        self._run_as: dict[str, Callable[[Block], object]] = {
            "python": self._run_python,
            "console": self._run_console,
            "json": lambda block: json.loads(block.code),
            "toml": lambda block: tomllib.loads(block.code),
            "ini": lambda block: configparser.ConfigParser().read_string(block.code),
            "text": lambda _: None,
        }

    def run(self, block: Block) -> None:
        """Run a block, or check that its mark is right.

        Raises:
            Exception: If the block fails.
        """
        if block.mark == "skip":
            if not block.reason:
                raise PageError("the mark names no reason")
        elif block.mark == "not yet":
            _require_absent(block.reason)
        elif block.language in self._run_as:
            self._run_as[block.language](block)
        else:
            known = ", ".join(self._run_as)
            raise PageError(f"cannot run a block in {block.language!r}: name one of {known}, or mark it")

    def _run_python(self, block: Block) -> None:
        source = "\n" * (block.line - 1) + block.code  # so that tracebacks name the page's lines
        lines = source.splitlines()
        for node in ast.parse(source, self._path).body:
            shown = _SHOWN.search(lines[(node.end_lineno or node.lineno) - 1])
            if shown is None:
                self._exec(ast.Module([node], []))
                continue
            if not isinstance(node, ast.Expr):
                raise PageError(f"line {node.lineno}: '# ->' stands behind an expression only")
            found = eval(compile(ast.Expression(node.value), self._path, "eval"), self._namespace)  # noqa: S307 - our docs
            _compare(shown[1], repr(found), f"line {node.lineno}")

    def _exec(self, module: ast.Module) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(module, self._path, "exec"), self._namespace)  # noqa: S102 - our docs

    def _run_console(self, block: Block) -> None:
        for number, command, expected in _commands(block):
            done = subprocess.run(
                ["/bin/bash", "-euo", "pipefail", "-c", command],
                capture_output=True,
                check=False,
                text=True,
                timeout=_SECONDS,
            )
            if done.returncode:
                raise PageError(f"line {number}: `{command}` exits with {done.returncode}:\n{done.stdout}{done.stderr}")
            if expected:
                _compare(expected, done.stdout, f"line {number}")


def _commands(block: Block) -> Iterator[tuple[int, str, str]]:
    """Line number, command and expected output of each command of a console block."""
    found: list[tuple[int, list[str], list[str]]] = []
    continues = False
    for number, line in enumerate(block.code.splitlines(), block.line):
        if line.startswith("$ "):
            found.append((number, [line[2:]], []))
        elif not found:
            raise PageError(f"line {number}: a console block begins with '$ '")
        elif continues:
            found[-1][1].append(line.removeprefix("> "))
        else:
            found[-1][2].append(line)
        continues = line.endswith("\\") and (line.startswith("$ ") or continues)
    for number, command, output in found:
        yield number, "\n".join(command), "\n".join(output)


def _compare(expected: str, found: str, where: str) -> None:
    matches = doctest.OutputChecker().check_output(f"{expected.strip()}\n", f"{found.strip()}\n", doctest.ELLIPSIS)
    if not matches:
        raise PageError(f"{where}: the page shows\n{expected}\nand the result is\n{found}")


def _require_absent(name: str) -> None:
    """Check that an object does not exist.

    Raises:
        PageError: If it exists, or the name is malformed.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise PageError(f"'not yet' names an object as module:name, not {name!r}")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return
    raise PageError(f"{name} exists now: remove the mark, so that the block runs")


def main(path: str) -> int:
    """Run a page; returns the number of blocks that failed."""
    failed = 0
    page = Page(path)
    for block in blocks_of(Path(path).read_text(encoding="utf-8")):
        try:
            page.run(block)
        except Exception:  # noqa: BLE001 - reported, and the next block says whether it depended on this one
            failed += 1
            sys.stderr.write(f"\n{path}, block at line {block.line}:\n{traceback.format_exc()}")
    return failed


def leave(status: int) -> NoReturn:
    """End the process; with PyArrow, without the end of the interpreter.

    After `pandas.read_parquet`, a thread of PyArrow may still close the file, and that aborts a process whose interpreter
    ends meanwhile: https://github.com/apache/arrow/issues/34314.
    """
    if "pyarrow" in sys.modules:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    leave(min(main(sys.argv[1]), 100))
