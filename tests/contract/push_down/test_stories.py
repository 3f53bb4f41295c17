"""Whom a run reads though the warehouse says that nothing of them changed: a story for each group.

Each ends as it would if everything was read; without its group it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.push_down.worlds import Pair


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """Two worlds over PostgreSQL, or over DuckDB where a test says so."""
    if getattr(request, "param", "postgresql") == "duckdb":
        pytest.importorskip("duckdb")
        url = f"duckdb:///{tmp_path / 'engage.duckdb'}"
    else:
        url = request.getfixturevalue("empty_postgres")
    with Pair.opened(url) as pair:
        yield pair


def reads(pair: Pair, number: int) -> None:
    """A run of all reads so many customers, by fingerprints."""
    pair.full()
    assert pair.read.startswith(f"{number} of "), pair.read


@pytest.mark.parametrize("pair", ["postgresql", "duckdb"], indirect=True)
def test_only_who_differs_is_read(pair: Pair) -> None:
    reads(pair, 0)
    pair.say("u1", "vip", "false")
    pair.arrive("new")
    pair.lose("u3", "gold")
    pair.merge("u4", "u5")
    reads(pair, 5)
    pair.delete("u2")
    pair.delete("u7")
    reads(pair, 0)  # who is gone has no row to read
    reads(pair, 0)


def test_what_a_run_between_wrote(pair: Pair) -> None:
    """Of a name there is no history: it went there and back, and its rows are as they were."""
    pair.say("u1", "name", "Ada")
    reads(pair, 1)
    pair.say("u1", "name", "Grace")
    pair.say("u3", "vip", "false")
    pair.sync()
    pair.say("u1", "name", "Ada")
    pair.say("u3", "vip", "true")
    reads(pair, 2)
    reads(pair, 0)


def test_a_call_that_says_what_is_known(pair: Pair) -> None:
    """It leaves its time alone, and nobody looks at the customer for it."""
    pair.say("u1", "name", "Ada")
    reads(pair, 1)
    pair.call("u1", "vip", True)
    pair.identify("u1", "Ada")
    reads(pair, 0)
    pair.passes(4)
    pair.say("u2", "total", "6")
    reads(pair, 1)
    pair.say("u1", "name", "Grace")
    reads(pair, 1)


def test_what_a_call_wrote(pair: Pair) -> None:
    """Its receipt was long ago when it was processed: the pull knows better."""
    reads(pair, 0)
    pair.say("u6", "total", "7")
    pair.sync()
    pair.call("u1", "vip", False, late=8)
    pair.say("u2", "total", "6")
    reads(pair, 3)
    reads(pair, 0)


def test_a_call_that_says_nothing_makes_a_customer(pair: Pair) -> None:
    """u7 is in no audience and was never sent; known, it gets what the rows say."""
    pair.identify("u7")
    reads(pair, 1)


def test_what_a_call_said_is_provisional(pair: Pair) -> None:
    """The first comparison leaves it, as the pull cannot know yet; a later one does not."""
    pair.call("u1", "vip", False)
    reads(pair, 1)
    pair.passes(4)
    pair.say("u2", "total", "6")
    reads(pair, 2)
    reads(pair, 0)


def test_a_call_says_what_is_known_while_a_run_finds_something_else(pair: Pair) -> None:
    """It keeps the member in, and later the pull knows of it."""
    pair.say("u1", "vip", "false")
    pair.call_meanwhile("u1", "vip", True)
    reads(pair, 1)
    pair.passes(5)
    pair.say("u2", "total", "6")
    reads(pair, 2)
    reads(pair, 0)


def test_who_has_no_row_left_and_whom_a_call_names(pair: Pair) -> None:
    """There is an identifier still: nobody takes u6 for deleted."""
    pair.call("u6", "vip", True)
    pair.lose("u6", "vip")
    pair.lose("u6", "total")
    reads(pair, 0)
    pair.passes(4)
    pair.say("u2", "total", "6")
    reads(pair, 1)
    assert pair.pushed.revisits() == []


def test_whose_only_row_is_lost_while_a_call_says_more(pair: Pair) -> None:
    """Nothing changes in the run that finds it lost, and a later one takes u6 out."""
    pair.lose("u6", "total")
    reads(pair, 1)
    pair.call("u6", "vip", True)
    pair.lose("u6", "vip")
    reads(pair, 0)
    pair.passes(4)
    pair.say("u2", "total", "6")
    reads(pair, 1)
    assert pair.pushed.revisits() == []


def test_who_is_gone_and_whom_a_call_names(pair: Pair) -> None:
    """Whether a customer was deleted is open while a call came of it that Engage may not know."""
    pair.call("u1", "total", 7)
    pair.call("u1", "gold", True)
    pair.delete("u1")
    reads(pair, 0)
    pair.passes(4)
    pair.say("u2", "total", "6")
    reads(pair, 1)
    assert pair.pushed.revisits() == []


def test_a_name_by_a_call_until_its_row_is_computed_anew(pair: Pair) -> None:
    pair.say("u1", "name", "Ada")
    pair.identify("u1", "Grace")
    reads(pair, 1)
    pair.again("u1", "name")
    reads(pair, 1)
    reads(pair, 1)  # it was written while a call was newer than the pull
    reads(pair, 0)


def test_what_is_held_and_its_end(pair: Pair) -> None:
    for who in ("u0", "u1", "u2", "u3"):
        pair.say(who, "vip", "false")
    reads(pair, 4)
    reads(pair, 4)  # else nobody would find again what is held
    pair.reject()
    reads(pair, 4)
    pair.lift()
    pair.call("u0", "vip", False)
    reads(pair, 4)
    pair.approve()
    assert pair.narrow
    reads(pair, 0)


def test_who_is_held_as_deleted(pair: Pair) -> None:
    """They are in no table of the warehouse any more."""
    for who in ("u0", "u1", "u2", "u3"):
        pair.delete(who)
    reads(pair, 0)
    reads(pair, 0)
    with pair.pushed.database.read() as connection:
        held = connection.exec_driver_sql("SELECT count(*) FROM held_change WHERE ended_at IS NULL")
        assert held.scalar() == 4
    pair.approve()
    reads(pair, 0)


def test_a_call_that_ends_a_hold(pair: Pair) -> None:
    """Of who is not known, it leaves nothing but the end of the hold."""
    for who in ("u0", "u1", "u2", "u3"):
        pair.say(who, "vip", "false")
    pair.arrive("new")
    reads(pair, 5)
    pair.passes(1)
    pair.call("u0", "vip", False)
    pair.call("new", "vip", False)
    reads(pair, 5)


def test_an_exit_by_a_call_keeps_an_older_row_out_for_a_day(pair: Pair) -> None:
    pair.arrive("late")
    pair.call("late", "vip", False)
    reads(pair, 1)
    pair.passes(25)
    pair.call("u1", "gold", True)  # the exits are looked through
    pair.say("u2", "total", "6")
    reads(pair, 2)


def test_who_was_forgotten_is_let_in_again(pair: Pair) -> None:
    pair.forget("u1")
    reads(pair, 0)
    pair.let_in("u1")
    reads(pair, 1)


def test_who_was_to_be_erased_is_there(pair: Pair) -> None:
    """A run that was no baseline took u1 for deleted; its rows are as they were before."""
    pair.ask_to_forget("u1")
    reads(pair, 1)
    reads(pair, 0)
