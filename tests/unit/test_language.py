"""The prose of the package and the docs is plain technical English (CONTRIBUTING.md, "Language")."""

from __future__ import annotations

import ast
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HABITS = re.compile(
    r"\b(what|who|whoever|nobody|whose)\b|\bis no\b|\b(take|taken|takes) back\b|\b(give|given|gives) up\b", re.IGNORECASE
)
MOST = 1.5
"""Habits in 1000 words. httpx has 0.3 "what" in 1000 words, trio 1.4."""


def prose(path: Path) -> str:
    """The docstrings and comments of a module, or the text of a page without its code."""
    if path.suffix == ".md":
        return re.sub(r"```.*?```|`[^`]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    docstrings = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)]
    with path.open("rb") as file:
        comments = [each.string for each in tokenize.tokenize(file.readline) if each.type == tokenize.COMMENT]
    return "\n".join([*docstrings, *comments])


@pytest.mark.parametrize("pattern", ["gllm_storage/**/*.py", "docs/**/*.md", "*.md"])
def test_habits(pattern: str) -> None:
    """The habits that make prose slow to read stay below the bound."""
    texts = {path: prose(path) for path in ROOT.glob(pattern)}
    words = sum(len(re.findall(r"\w+", text)) for text in texts.values())
    found = {str(path.relative_to(ROOT)): len(HABITS.findall(text)) for path, text in texts.items()}
    worst = sorted(found.items(), key=lambda each: -each[1])[:5]
    assert words > 1000
    assert 1000 * sum(found.values()) / words <= MOST, worst
