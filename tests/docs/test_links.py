"""Links of the pages that `make docs` does not check: files at the root, images, absolute links, and the navigation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gllm_storage
from gllm_storage.errors import Remedy

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)
_CODE = re.compile(r"^(`{3,}).*?^\1$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def links_of(page: Path) -> list[str]:
    """The targets of a page's links and images."""
    return _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = _HEADING.findall(
        re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    )
    words = [re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower() for heading in headings]
    return {re.sub(r"[ ]+", "-", each) for each in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Each relative link names a file of the repository and one of its headings, and no link is absolute."""
    for link in links_of(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert not link.startswith("/"), link
        assert target.is_file(), link
        assert not anchor or anchor in anchors_of(target), link
        assert not anchor.startswith("-"), f"{link}: the site makes another anchor of a heading that begins with a dash"


def test_navigation() -> None:
    """The navigation of the site names each page once, and nothing else."""
    named = re.findall(r"^ +- [^:\n]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_link_parser() -> None:
    """The links of a page are found, and those in code are not."""
    assert links_of(DOCS / "index.md")
    assert "exclusive-create" not in anchors_of(DOCS / "index.md")
    assert "remains" in anchors_of(DOCS / "guarantees.md")


@pytest.mark.parametrize(
    ("folder", "prefix", "unlisted"),
    [("gllm_storage", "", {"__init__.py"}), ("tests", "tests/", {"pickles", "scripts"})],
    ids=["package", "tests"],
)
def test_contributing(folder: str, prefix: str, unlisted: set[str]) -> None:
    """The tables of CONTRIBUTING.md name each package, module and folder of tests once."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE)
    named = [name for row in rows for name in re.findall(rf"`{prefix}(\w+(?:/|\.py))`", row)]
    packages = {f"{each.parent.name}/" for each in (ROOT / folder).glob("*/*.py") if each.parent.name not in unlisted}
    modules = {each.name for each in (ROOT / folder).glob("*.py")} - unlisted if not prefix else set()
    assert sorted(named) == sorted(packages | modules)


def test_api_names() -> None:
    """The API page has every public name."""
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    assert [name for name in gllm_storage.__all__ if not re.search(rf"^::: gllm_storage\.{name}$", page, re.MULTILINE)] == []


def test_remedies() -> None:
    """The table of remedies has each member once, and nothing else."""
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    table = page.partition("| member | after |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(each.name for each in Remedy)
