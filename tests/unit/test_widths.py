"""Tables fit a narrow screen, and lose nothing."""

from __future__ import annotations

import pytest

from syncer.cli import console, output

TIME = "2026-11-28T05:35:38.739Z"
LONG = "j_o_first_purchase__opened_email_dje83h"
TABLES = {
    "sums": (
        output.TRAIT_COLUMNS,
        [[LONG, "audience", 1234567, 12, n, 191, 7, 23, 0] for n in (1, 2)],
    ),
    "runs": (
        ("run", "kind", "state", "started", "entered", "exited", "changed", "due", "held"),
        [[n, "incremental", "superseded", TIME, 1234567, 3, n, 1234567, 0] for n in (1, 2)],
    ),
    "changes": (
        ("customer_id", "trait", "key", "before", "after", "observed_at", "recorded_at"),
        [["u1" * 100, LONG, LONG, None, "true" * n, TIME, TIME] for n in (1, 2)],
    ),
    "wide": (
        tuple(f"column_{n}" for n in range(12)),
        [[n, *range(10**6, 10**6 + 11)] for n in (1, 2)],
    ),
    "one row": (tuple(f"column_{n}" for n in range(12)), [[10**9] * 12]),
    "empty": (output.TRAIT_COLUMNS, []),
}


def printed(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    columns: int,
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    console.print_table(*TABLES[name], title="a title")
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("columns", [80, 100])
def test_no_line_is_wider_than_the_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, columns: int
) -> None:
    lines = printed(capsys, monkeypatch, name, columns)
    assert lines
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize("name", ["sums", "runs", "wide", "one row"])
def test_no_number_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shown = "\n".join(printed(capsys, monkeypatch, name, 80))
    numbers = {cell for row in TABLES[name][1] for cell in row if isinstance(cell, int)}
    assert all(f"{number:,}" in shown for number in numbers)


def test_a_table_that_fits_has_its_frame(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert printed(capsys, monkeypatch, "sums", 160)[1].startswith("┏")
    assert LONG in "\n".join(printed(capsys, monkeypatch, "sums", 80))


def test_a_line_of_text_stays_one_line_off_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    console.stdout().print("word " * 40)
    assert capsys.readouterr().out == "word " * 40 + "\n"


def test_a_text_folds_on_a_terminal_and_nowhere_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = " ".join(f"word{number}" for number in range(20))
    output.print_text(text)
    assert capsys.readouterr().out == f"{text}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output.print_text(f"{text}\x1b[2J")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    assert " ".join(map(str.strip, lines)) == f"{text}\\x1b[2J"
