"""The commands that measure one directory of 128 MiB files: `killed` and `hashing`."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import report, results
from benchmarks.folders import Tree, default_work
from benchmarks.layout import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FILE = 128 * MIB


def parser_of(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that these commands have in common.

    Args:
        name: The module.
        description: One sentence for the help.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--files", type=int, default=32, help="of 128 MiB; Ceph has room for about 40")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="for all files; by default in memory, if it has room")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures of each process")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table; it is printed anyway")
    return parser


def measured(
    options: argparse.Namespace,
    copies: int,
    about: Mapping[str, Any],
    measure: Callable[[Path, Tree], tuple[str, Any]],
    to_markdown: Callable[[Mapping[str, Any]], str],
) -> int:
    """Measure in a temporary folder, and write the results.

    Args:
        options: As `parser_of` parses them.
        copies: How often the directory is on the disk.
        about: Facts for the results.
        measure: Returns the name of its results, and the results.
        to_markdown: Makes the table.

    Returns:
        The exit status: 0, or 130 after Ctrl-C.
    """
    tree = Tree(options.files, _FILE)
    size = tree.count * tree.size
    found = results.begin({"tree": tree.title, "bytes": size, **about})
    folder = Path(tempfile.mkdtemp(prefix="gllm-storage-bench-", dir=options.work or default_work(copies * size)))
    try:
        name, figures = measure(folder, tree)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found[name] = figures
    if options.json:
        results.save(found, options.json)
    report.show(to_markdown(found), options.markdown)
    return 0
