"""A local has the name of what it holds (CONTRIBUTING.md): none that could hold anything."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMELESS = {"found", "one", "there", "left"}
WORDS = re.compile(rf"\b({'|'.join(NAMELESS)})\b")


def nameless(file: Path) -> Iterator[str]:
    """The lines of a file that give such a name to a variable, an argument or a function."""
    text = file.read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(text))) if WORDS.search(text) else []
    # Of a field the object says what it is.
    owners = [node for node in nodes if isinstance(node, ast.ClassDef)]
    fields = {getattr(part, "target", part) for owner in owners for part in owner.body}
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                pass
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                pass
            case _:
                continue
        if name in NAMELESS and node not in fields:
            yield f"{file.relative_to(ROOT)}:{node.lineno}: {name}"


@pytest.mark.parametrize("folder", ["benchmarks", "docs", "state", "syncer", "tests"])
def test_a_local_has_the_name_of_what_it_holds(folder: str) -> None:
    files = (file for file in (ROOT / folder).rglob("*.py") if "node_modules" not in file.parts)
    assert [line for file in files for line in nameless(file)] == []
