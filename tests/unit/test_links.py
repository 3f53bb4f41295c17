"""The documentation hangs together: every link leads somewhere, every page is in the index, and the
README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
INDEX = ROOT / "docs" / "README.md"

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_PATH = re.compile(r"`((?:syncer|state|tests|docs|benchmarks|\.ci)/[\w./-]+)`")
#: Code in a page: what looks like a link or a heading there is none.
_CODE_BLOCK = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)


def text_of(page: Path) -> str:
    return _CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))


def anchor(heading: str) -> str:
    """The anchor that a heading gets on GitHub and elsewhere."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def links(page: Path) -> list[str]:
    """The links of a page to files and headings of this repository."""
    return [link for link in _LINK.findall(text_of(page)) if "://" not in link]


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    return [link for link in links(page) if not _leads_somewhere(page, link)]


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, name = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return False
    return not name or name in map(anchor, _HEADING.findall(text_of(target)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken(page)


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b`: c\n[x](#a-b-c) [x](#d) [x](gone.md) [x](page.md#a-b-c)\n")
    assert broken(page) == ["#d", "gone.md"]


def test_files_that_pages_name_exist() -> None:
    """Paths that stand as code, but in the changelog and in the facts about other repositories."""
    gone = {
        (page.name, path)
        for page in PAGES
        if page.name != "CHANGELOG.md" and page.parent.name != "facts"
        for path in _PATH.findall(text_of(page))
        if "NAME" not in path and not (ROOT / path).exists()
    }
    assert not gone


def test_every_page_is_in_the_index() -> None:
    linked = {(INDEX.parent / link.partition("#")[0]).resolve() for link in links(INDEX)}
    pages = {page for page in PAGES if page.is_relative_to(INDEX.parent)}
    assert pages - linked == {INDEX}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700
