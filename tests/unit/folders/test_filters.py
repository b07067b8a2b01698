"""The filter rules are those of rclone: its own program decides."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gllm_storage import MemoryStorageClient
from gllm_storage.folders.filters import Filter
from tests.servers.process import clean_environment, find_program
from tests.servers.rclone import INSTALL

PATHS = [
    "config.json",
    "a.bin",
    "a.txt",
    "sub/config.json",
    "sub/a.bin",
    "sub/deep/a.bin",
    "sub/deep/b.TXT",
    "subdir/x",
    "cache/x",
    "sub/cache/y",
    "cache.txt",
    "file[1].bin",
    "star*.bin",
    "brace{a}.bin",
    "a,b.bin",
    "shard-00001-of-00010.safetensors",
    "shard-1.safetensors",
    "ü.bin",
    "٣.bin",
    " a.bin",
    "with space.bin",
    ".hidden",
    "sub/.hidden/z",
    "back\\slash.bin",
]
PATTERNS = [
    "*",
    "**",
    "*.bin",
    "/*.bin",
    "config.json",
    "/config.json",
    "onfig.json",
    "sub/*",
    "sub/**",
    "/sub/**",
    "sub/",
    "/sub/",
    "cache/",
    "/cache/",
    "cache",
    "deep/*.bin",
    "sub/*/a.bin",
    "sub/**/a.bin",
    "?.bin",
    "[ab].bin",
    "[!a].bin",
    "[^a].bin",
    "[a-c].txt",
    "*.{bin,txt}",
    "{sub,cache}/**",
    "{a,sub/a}.bin",
    "a,b.bin",
    r"star\*.bin",
    r"file\[1\].bin",
    r"brace\{a\}.bin",
    "shard-{{[0-9]{5}}}-of-*.safetensors",
    r"shard-{{\d+}}.safetensors",
    "ü.bin",
    "* *",
    ".*",
    "/.*",
    "*.TXT",
    "*.txt",
    "/",
    "**/a.bin",
    "/**/a.bin",
    "{{.*}}/x",
    "{,sub/}a.bin",
    r"{{\w+}}.bin",
    r"{{\W}}.bin",
    r"{{\d}}.bin",
    r"{{[\w]+}}.bin",
    r"{{\b}}ü.bin",
    r"{{[[a]}}.bin",
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all paths."""
    folder = tmp_path_factory.mktemp("tree")
    for path in PATHS:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def listed(tree: Path, rules: list[str], tmp_path: Path) -> set[str]:
    """The files that rclone lists."""
    program = find_program("rclone", INSTALL)
    file = tmp_path / "rules"
    file.write_text("\n".join(rules), encoding="utf-8")
    command = [program, "--config", "", "lsf", "-R", "--files-only", "--format", "p", "--local-encoding", "None"]
    done = subprocess.run(
        [*command, "--filter-from", str(file), str(tree)],
        capture_output=True,
        check=True,
        env=clean_environment(tmp_path),
    )
    return set(done.stdout.decode().splitlines())


def taken(rules: list[str]) -> set[str]:
    """The files that the filter takes."""
    chosen = Filter.of(rules=rules)
    return {path for path in PATHS if chosen.takes(path)}


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern(pattern: str, tree: Path, tmp_path: Path) -> None:
    """A pattern matches the files that it matches in rclone."""
    rules = [f"+ {pattern}", "- **"]
    assert taken(rules) == listed(tree, rules, tmp_path)


RULES = [
    ["- sub/", "+ **"],
    ["- /cache/", "+ *.txt", "- *"],
    ["+ sub/deep/**", "- sub/**"],
    ["- *.bin"],
    ["- .*", "- .*/**"],
    ["+ /sub/config.json", "- /sub/**", "+ *.bin", "- **"],
    ["- **/deep/", "- config.json"],
    ["- *"],
    ["+ *.bin", "- *"],
    ["- deep"],
    ["- deep/**"],
    ["- {sub,cache}/"],
    ["+ {{sub/.*}}.bin", "- **"],
]


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES, ids=" ; ".join)
def test_rules(rules: list[str], tree: Path, tmp_path: Path) -> None:
    """Rules in an order take the files that they take in rclone."""
    assert taken(rules) == listed(tree, rules, tmp_path)
    excluded = [each.replace("+", "-", 1) for each in rules]
    assert taken(excluded) == listed(tree, excluded, tmp_path)


@pytest.mark.parametrize(
    "pattern",
    ["", "***", "a[", "a]", "a{b", "a}b", "a\\", "{{(}}", "[z-a]", "{{[0-9}", "{{[[:digit:]]}}", "{{[^[:^alpha:]x]}}"],
    ids=lambda each: each or "empty",
)
def test_malformed_pattern(pattern: str) -> None:
    """A malformed pattern is refused, and the error names it."""
    with pytest.raises(ValueError, match="filter pattern") as caught:
        Filter.of(exclude=[pattern])
    assert repr(pattern) in str(caught.value)


@pytest.mark.parametrize("rule", ["*.bin", "+*.bin", "- ", "! ", "+", ""])
def test_malformed_rule(rule: str) -> None:
    """A rule without a sign or a pattern is refused."""
    with pytest.raises(ValueError, match="filter rule"):
        Filter.of(rules=[rule])


def test_include_and_exclude() -> None:
    """Both at once are refused: a file may match both."""
    with pytest.raises(ValueError, match="first that matches decides"):
        Filter.of(include=["*.bin"], exclude=["a*"])


@pytest.mark.parametrize("name", ["include", "exclude", "rules"])
@pytest.mark.parametrize("value", ["*.bin", b"*.bin", 5, [5], [None], [b"*.bin"]])
def test_no_list_of_texts(name: str, value: Any) -> None:
    """Only a list of texts is taken: the letters of a single one would be patterns."""
    with pytest.raises(ValueError, match=f"{name}.*give a list"):
        Filter.of(**{name: value})


@pytest.mark.parametrize("files", ["a.bin", 5, [5], [Path("a.bin")]])
def test_wrong_files(tmp_path: Path, files: Any) -> None:
    """A list of files has texts only, too."""
    with pytest.raises(ValueError, match=r"files.*give a list of paths"):
        MemoryStorageClient({"bucket_name": "filters"}).upload_dir(tmp_path, "v1", files=files)


def test_line_break() -> None:
    """A name with a line break is matched completely."""
    chosen = Filter.of(include=["*.bin"])
    assert chosen.takes("a\nb.bin")
    assert not chosen.takes("a.bin\n")


def test_spaces_of_rule() -> None:
    """The pattern of a rule begins behind the sign and one space, and ends with the text."""
    assert not Filter.of(rules=["-  a"]).takes(" a")
    assert Filter.of(rules=["-  a"]).takes("a")
    assert Filter.of(rules=["- a\n"]).takes("a")
    assert not Filter.of(rules=["- a\n"]).takes("a\n")


def test_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    """A class that Python may read otherwise in future causes no warning."""
    re.purge()
    assert Filter.of(include=["{{[[a]}}.bin"]).takes("[.bin")
    assert not recwarn
