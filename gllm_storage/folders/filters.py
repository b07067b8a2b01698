r"""Which files of a folder take part: the filter rules of rclone.

The language is that of https://rclone.org/filtering/, with the same results, which a test compares with rclone itself:

| pattern | matches |
|---|---|
| ``*.bin`` | files of that kind in any folder: a pattern without a slash at its start matches the end of a path |
| ``/config.json`` | this file at the top only |
| ``*`` | any characters but ``/`` |
| ``**`` | any characters |
| ``?`` | one character but ``/`` |
| ``[a-z]``, ``[^a-z]`` | one character of a class, or not of it |
| ``{a,b}`` | one of several patterns |
| ``{{[0-9]+}}`` | a regular expression |
| ``cache/`` | the folder ``cache``; as an exclusion, everything in it: as ``cache/**`` |
| ``\*`` | the character ``*`` |

The first rule that matches decides; a file that no rule matches takes part. A file takes part only if its folders do: a rule
that takes files also takes the folders that the pattern names, and ``- **`` leaves out all other folders. So
``+ deep/*.bin`` and ``- **`` take ``deep/a.bin``, but not ``sub/deep/a.bin``; for that, write ``+ **/deep/*.bin``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.folders.inherited import Inherited

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TOKEN = re.compile(
    r"""
    (?P<escape>\\.)
    | (?P<regex>\{\{.*?\}\}+)
    | (?P<stars>\*{3,})
    | (?P<any>\*\*)
    | (?P<some>\*)
    | (?P<one>\?)
    | (?P<class>\[\^?\]?[^\]]*\])
    | (?P<open>\{)
    | (?P<close>\})
    | (?P<comma>,)
    | (?P<bracket>[\[\]])
    | (?P<text>[^\\*?\[\]{},]+|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_WILDCARDS = {"any": ".*", "some": "[^/]*", "one": "[^/]"}
_PROBLEMS = {
    "stars": "'***' means nothing; '**' matches any characters",
    "bracket": "a '[' or ']' stands alone; write '\\[' for the character",
    "close": "'}' has no '{'; write '\\}' for the character",
    "text": "nothing follows the '\\' at its end",
}
_POSIX_CLASS = re.compile(r"\[:\^?\w+:\]")
"""A class such as ``[:digit:]``, which Python reads as a class of these letters."""
_FOLDERS_UNKNOWN = re.compile(r"\{[^{}]*(?:\*\*|/)[^{}]*\}|\{\{|\}\}|\{[^{}]*\{")
"""A pattern whose folders do not follow from its text, so that files in all folders are listed."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        takes: Whether files that match take part.
        pattern: The pattern, as given.
    """

    takes: bool
    pattern: str

    def __str__(self) -> str:
        return f"{'+' if self.takes else '-'} {self.pattern}"

    def of_files(self) -> str | None:
        """The regular expression of the files; None if the rule is about folders only."""
        glob = self._glob()
        return _regex_of(glob, self.pattern) if not glob.endswith("/") or "**" in glob else None

    def of_folders(self) -> list[str]:
        """The regular expressions of the folders, whose paths end with ``/``."""
        glob = self._glob()
        of_file = not glob.endswith("/") or "**" in glob
        found = _folders_of(glob) if of_file and (self.takes or glob == "*") else []
        return [_regex_of(each, self.pattern) for each in found] + (
            [_regex_of(glob, self.pattern)] if glob.endswith("/") or "**" in glob else []
        )

    def _glob(self) -> str:
        leaves_folder_out = not self.takes and self.pattern.endswith("/")
        return f"{self.pattern}**" if leaves_folder_out else self.pattern


class Filter:
    """Decides which files take part.

    Args:
        rules: The rules; the first one that matches decides.

    Raises:
        ValueError: If a pattern is malformed.

    Examples:
        >>> chosen = Filter.of(include=["*.safetensors", "/config.json"])
        >>> [path for path in ("a/model.safetensors", "config.json", "a/config.json") if chosen.takes(path)]
        ['a/model.safetensors', 'config.json']
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules = tuple(rules)
        self._files = [(rule.takes, _compiled(regex)) for rule in self.rules if (regex := rule.of_files())]
        self._folders = [(rule.takes, _compiled(regex)) for rule in self.rules for regex in rule.of_folders()]
        self._taken_folders = Inherited(self._decide_folder, top=True)

    @classmethod
    def of(
        cls, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None, rules: Iterable[str] | None = None
    ) -> Filter:
        """The filter that these options of rclone make.

        Args:
            include: Patterns as of ``--include``: only files that match one of them, or a rule, take part. An empty list
                takes no file, as a list of patterns that match nothing; None takes all files.
            exclude: Patterns as of ``--exclude``.
            rules: Rules as of ``--filter``, such as ``"- *.tmp"`` or ``"+ *.bin"``.

        Raises:
            ValueError: If a pattern or a rule is malformed; if `include` and `exclude` are both given, because a file may
                match both; or if one of them is not a list of texts.
        """
        included, excluded = texts("include", include, "patterns"), texts("exclude", exclude, "patterns")
        given = texts("rules", rules, "rules")
        if included and excluded:
            raise ValueError(
                "include and exclude are both given, and a file may match both; give rules instead, of which the first that "
                f"matches decides, such as ['- {excluded[0]}', '+ {included[0]}', '- **']"
            )
        found = [Rule(takes=True, pattern=each) for each in included]
        found += [Rule(takes=False, pattern=each) for each in excluded]
        found += [_rule_of(each) for each in given]
        if include is not None:
            found.append(Rule(takes=False, pattern="/**"))
        return cls(found)

    def takes(self, path: str) -> bool:
        """Whether a file takes part.

        Args:
            path: Its path below the folder, with ``/``.
        """
        if not self.rules:
            return True
        return _first(self._files, path) and self.takes_folder(path.rpartition("/")[0])

    def takes_folder(self, path: str) -> bool:
        """Whether files of a folder may take part.

        Args:
            path: Its path below the folder of the transfer, without a slash at its end; empty for that folder itself.
        """
        return not (path and self.rules) or self._taken_folders.of(path)

    def _decide_folder(self, path: str, takes_above: bool) -> bool:
        return takes_above and _first(self._folders, f"{path}/")


def texts(name: str, values: Iterable[str] | None, kind: str) -> list[str]:
    """The texts of an option; none if it is None.

    Args:
        name: The option, for errors.
        values: Its value.
        kind: The kind of its texts, for errors.

    Raises:
        ValueError: If the value is not a list or the like, or has something else than texts.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable | None):
        raise ValueError(f"{name}={values!r}: give a list of {kind}")
    found = list(values or ())
    for each in found:
        if not isinstance(each, str):
            raise ValueError(f"{name} has {each!r}: give a list of {kind}, as texts")
    return found


def _first(rules: Sequence[tuple[bool, re.Pattern[str]]], path: str) -> bool:
    return next((takes for takes, regex in rules if regex.search(path)), True)


def _rule_of(text: str) -> Rule:
    sign, pattern = text[:2], text[2:]
    if sign not in {"+ ", "- "} or not pattern:
        raise ValueError(f"filter rule {text!r}: it must be '+ PATTERN' or '- PATTERN'")
    return Rule(takes=sign == "+ ", pattern=pattern)


def _folders_of(glob: str) -> list[str]:
    """The folders in which files that match a pattern may be, as patterns that end with a slash."""
    if _FOLDERS_UNKNOWN.search(glob):
        return ["/**"]
    glob, found = re.sub("/{2,}", "/", glob), list[str]()
    while (cut := max(glob.rfind("/"), glob.rfind("**"))) >= 0:
        folder = glob[:cut] + ("**/" if glob.startswith("**", cut) else "/")
        glob = glob[:cut]
        if found[-1:] != [folder]:
            found.append(folder)
    return found or ["/**"]


def _regex_of(glob: str, pattern: str) -> str:
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(f"filter pattern {pattern!r}: it must be a text that is not empty")
    start, rest = ("^", glob[1:]) if glob.startswith("/") else ("(?:^|/)", glob)
    regex = f"{start}{''.join(_translated(rest, pattern))}\\Z"
    try:
        _compiled(regex)
    except (re.error, ValueError) as error:
        raise ValueError(f"filter pattern {pattern!r}: {error}") from error
    return regex


def _compiled(regex: str) -> re.Pattern[str]:
    """A regular expression whose classes of letters, digits and spaces are those of ASCII, as in Go, which rclone uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of '[[', which is in both languages a class with the character '['
        return re.compile(regex, re.DOTALL | re.ASCII)


def _translated(glob: str, pattern: str) -> Iterator[str]:  # noqa: C901 - one branch for each kind of token reads best
    depth = 0
    for token in _TOKEN.finditer(glob):
        kind, text = str(token.lastgroup), token[0]
        if kind in _WILDCARDS:
            yield _WILDCARDS[kind]
        elif kind == "escape":
            yield re.escape(text[1:])
        elif kind == "regex":
            if found := _POSIX_CLASS.search(text):
                raise ValueError(f"filter pattern {pattern!r}: {found[0]!r} is not supported; write a range such as '0-9'")
            yield f"(?:{text[2:-2]})"
        elif kind == "class":
            yield text
        elif kind == "open":
            depth += 1
            yield "(?:"
        elif kind == "close" and depth:
            depth -= 1
            yield ")"
        elif kind == "comma" and depth:
            yield "|"
        elif kind in {"stars", "bracket", "close"} or text == "\\":
            raise ValueError(f"filter pattern {pattern!r}: {_PROBLEMS[kind]}")
        else:
            yield re.escape(text)
    if depth:
        raise ValueError(f"filter pattern {pattern!r}: '{{' has no '}}'; write '\\{{' for the character")
