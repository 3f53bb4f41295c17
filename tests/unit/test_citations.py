"""What code, tests and documents cite of the documents is there: `docs/design.md §3.4` names a file
and a section of it. In a document a section alone is one of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from pathlib import Path
from posixpath import normpath

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("syncer", "state", "tests", "benchmarks", "docs")
TEXTS = {".py", ".md", ".html", ".css", ".js", ".toml", ".conf", ".service"}

_NUMBER = r"\d+(?:\.\d+)*"
_HEADING = re.compile(rf"^#+ ({_NUMBER})\.? ", re.MULTILINE)
#: A line's end, with the indentation and the sign of a comment that the next one has.
_FOLD = re.compile(r"\n[ \t]*(?:#:?[ \t]+)?")
_CITATION = re.compile(
    rf"(?:(?P<file>[\w./-]+\.md) )?(?P<sections>§ ?{_NUMBER}(?:(?:, | and )§{_NUMBER})*)"
)
_DOCUMENT = re.compile(r"(?<![\w/.-])(?:\.\./|docs/|facts/)[\w./-]*\.md")

Sections = Mapping[str, Set[str]]


def written() -> list[Path]:
    """All that may cite, but this file, which shows what is wrong."""
    pages = [*ROOT.glob("*.md"), ROOT / "config.example.toml"]
    for folder in FOLDERS:
        files = (ROOT / folder).rglob("*")
        pages += [
            file for file in files if file.suffix in TEXTS and "node_modules" not in file.parts
        ]
    return sorted(file for file in pages if file != Path(__file__))


def documents() -> Sections:
    """The numbered sections of each document, by its path from the root."""
    files = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    return {
        file.relative_to(ROOT).as_posix(): set(_HEADING.findall(file.read_text(encoding="utf-8")))
        for file in files
    }


def dangling(path: str, text: str, sections: Sections) -> list[str]:
    """What a file cites and is not there."""
    own = path if sections.get(path) else None
    text = _FOLD.sub(" ", text)
    wrong = []
    for match in _CITATION.finditer(text):
        file = match["file"] or own
        if file is None:
            wrong.append(f"{match[0]}: name the file, such as docs/design.md §3.4")
        elif file not in sections:
            wrong.append(f"{match[0]}: there is no {file}")
        else:
            cited = re.findall(_NUMBER, match["sections"])
            wrong += [
                f"{file} has no §{section}" for section in cited if section not in sections[file]
            ]
    if not path.startswith("docs/facts/"):  # these name files of other repositories
        folder = path.rpartition("/")[0]  # links are relative
        wrong += [
            f"there is no {file}"
            for file in _DOCUMENT.findall(text)
            if sections.keys().isdisjoint((file, normpath(f"{folder}/{file}")))
        ]
    return wrong


def test_every_citation_names_a_file_and_a_section_that_are_there() -> None:
    sections = documents()
    wrong = [
        f"{path}: {problem}"
        for path, file in ((page.relative_to(ROOT).as_posix(), page) for page in written())
        for problem in dangling(path, file.read_text(encoding="utf-8"), sections)
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_something_to_look_at() -> None:
    cited = [
        match
        for file in written()
        for match in _CITATION.finditer(_FOLD.sub(" ", file.read_text(encoding="utf-8")))
    ]
    assert len(cited) > 80
    assert {"docs/design.md", "docs/facts/segment.md", "docs/facts/amberflo.md"} <= {
        match["file"] for match in cited
    }


def test_a_section_has_one_heading() -> None:
    for file in (ROOT / "docs").rglob("*.md"):
        numbers = _HEADING.findall(file.read_text(encoding="utf-8"))
        assert len(numbers) == len(set(numbers)), file


SECTIONS = {"docs/design.md": {"3", "3.4"}, "docs/audit.md": set[str]()}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.py", "see docs/design.md §3.4."),
        ("a.py", "(docs/design.md §3, §3.4 and §3)"),
        ("a.py", "    # as docs/design.md\n    # §3.4 says"),
        ("a.py", "#: as docs/design.md\n#: §3.4 says"),
        ("a.py", '"""As docs/design.md\n    §3.4 says, and docs/audit.md."""'),
        ("docs/design.md", "by §3.4"),
        ("docs/ops/a.md", "see [the design](../design.md)"),
        ("a.py", "•¶§ƒ is text"),
    ],
)
def test_good_citations(path: str, text: str) -> None:
    assert dangling(path, text, SECTIONS) == []


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("a.py", "(design §3)", "name the file"),
        ("a.py", "(§3.4)", "name the file"),
        ("docs/audit.md", "(§3.4)", "name the file"),
        ("a.py", "(facts/craft.md §5)", "there is no facts/craft.md"),
        ("a.py", "(design.md §3)", "there is no design.md"),
        ("a.py", "(docs/design.md §9)", "docs/design.md has no §9"),
        ("a.py", "(docs/design.md §3.4, §3.44)", "docs/design.md has no §3.44"),
        ("a.py", "# docs/design.md\n    # §4", "docs/design.md has no §4"),
        ("docs/design.md", "by §4", "docs/design.md has no §4"),
        ("a.py", "by docs/gone.md", "there is no docs/gone.md"),
        ("docs/audit.md", "by ../gone/design.md", "there is no ../gone/design.md"),
    ],
)
def test_citations_that_dangle(path: str, text: str, says: str) -> None:
    assert says in " ".join(dangling(path, text, SECTIONS))
