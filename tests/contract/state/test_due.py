"""Which customers are due, put off or sent again, on SQLite and on PostgreSQL."""

from __future__ import annotations

from typing import Any

from state import chosen_claims, failures, lanes, outbox, queue, snapshot
from state.db.batches import ROWS
from state.db.database import Database
from state.history.record import add_changes
from tests.contract.state.helpers import (
    change,
    claimed,
    claimed_rows,
    delivered,
    failure,
    queued,
    to_send,
)
from tests.support.state import NOW, as_claimed, ask, due, due_ids, put, records, row

# what is due


def test_those_that_wait_longest_come_first(database: Database) -> None:
    put(database, row("b"), row("a"), now=NOW + 2)
    put(database, row("d"), now=NOW + 1)
    put(database, row("c"), now=NOW + 3)
    assert due_ids(database, NOW + 3) == ["d", "a", "b", "c"]
    assert due_ids(database, NOW + 2) == ["d", "a", "b"]
    assert due_ids(database, NOW) == []
    assert [customer[0] for customer in due(database, NOW + 3, 2)] == ["d", "a"]
    assert ask(database, outbox.oldest_due) == NOW + 1
    assert ask(database, outbox.backlog) == 4


def test_a_postponed_customer_waits_until_a_run_takes_it_over(database: Database) -> None:
    put(database, row("u1"), row("u2"))
    with database.write() as connection:
        outbox.postpone(connection, [("u1", 4, NOW + 900)])
    assert due_ids(database) == ["u2"]
    assert ask(database, outbox.backlog) == 2
    (later,) = due(database, NOW + 900)[1:]
    assert (later.customer_id, later.attempts) == ("u1", 4)

    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u2", 1)], NOW)
        assert outbox.adopt(connection, 7, NOW + 5) == 1
    assert claimed_rows(database, NOW + 5) == [to_send(row("u1"), 1, 0, run=7)]
    assert (records(database)["u2"]["due_at"], records(database)["u2"]["run"]) == (None, None)


def test_what_a_clock_put_off_that_was_set_back_since_waits_no_longer(
    database: Database, calls: Database
) -> None:
    """Nothing is put off for more than ten minutes; half an hour is a wrong clock's."""
    longest, half_hour = 600_000, 1_800_000
    put(database, row("honest"), now=NOW + longest)
    queued(calls, "honest", at=NOW + longest)
    assert not ask(database, lambda c: outbox.any_due(c, NOW))
    assert not ask(calls, lambda c: queue.any_due(c, NOW))
    assert (due_ids(database), claimed(calls, 1)) == ([], [])
    put(database, row("later"), now=NOW + 9 * half_hour)
    put(database, row("late"), now=NOW + half_hour)
    queued(calls, "late", at=NOW + half_hour)
    assert ask(database, lambda c: outbox.any_due(c, NOW))
    assert ask(calls, lambda c: queue.any_due(c, NOW))
    assert due_ids(database) == ["late", "later"]
    assert claimed(calls, 1) == ["late"]
    put(database, row("now"))
    assert due_ids(database) == ["now"]  # what is due comes first
    assert not ask(calls, lambda c: queue.any_due(c, NOW))


def test_a_customer_is_due_also_while_it_is_in_work(database: Database) -> None:
    """Whoever begins to deliver frees what a delivery of its own that broke had claimed."""
    put(database, row("u1"))
    with database.write() as connection:
        assert len(outbox.claim(connection, 1, NOW, 10)) == 1
    assert ask(database, lambda c: outbox.any_due(c, NOW))
    assert not ask(database, lambda c: outbox.any_due(c, NOW - 1))


def test_what_is_taken_over_keeps_its_place(database: Database) -> None:
    put(database, row("late"), now=NOW - 100)
    put(database, row("soon"), now=NOW + 100)
    with database.write() as connection:
        assert outbox.adopt(connection, 7, NOW) == 2
    assert due_ids(database) == ["late", "soon"]
    assert ask(database, outbox.oldest_due) == NOW - 100


def test_a_run_takes_over_what_waits_for_another_and_for_none(database: Database) -> None:
    put(database, row("older"), run=3)
    put(database, row("own"), run=7)
    put(database, row("called"), row("sent"), row("parked"))
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("sent", 1)], NOW)
        outbox.dead_letter(connection, [as_claimed("parked", 1)])
        assert outbox.claim(connection, 5, NOW, 1)[0].customer_id == "called"
        assert outbox.adopt(connection, 7, NOW) == 3
    customers = records(database)
    assert {customer_id: customers[customer_id]["run"] for customer_id in customers} == {
        **dict.fromkeys(("older", "own", "called"), 7),
        **dict.fromkeys(("sent", "parked")),
    }
    assert customers["called"]["claimed_by"] == 5  # whoever has it in work delivers it


def test_what_waits_for_a_run_is_counted_by_itself(database: Database) -> None:
    put(database, row("u1"), row("u2"), now=NOW + 2, run=3)
    put(database, row("u3"), now=NOW + 1)
    assert [ask(database, lambda c, run=run: outbox.backlog(c, run)) for run in (None, 3, 4)] == [
        3, 2, 0,
    ]  # fmt: skip
    oldest = [ask(database, lambda c, run=run: outbox.oldest_due(c, run)) for run in (None, 3, 4)]
    assert oldest == [NOW + 1, NOW + 2, None]
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u1", 1)], NOW)
    assert ask(database, lambda c: outbox.backlog(c, 3)) == 1


def test_a_run_waits_for_what_it_wrote(database: Database) -> None:
    put(database, row("u1", vip=True), run=3)
    put(database, row("u2"), run=3)
    with database.write() as connection:
        snapshot.update_customers(connection, [row("u1")], NOW, 4)
        snapshot.update_customers(connection, [row("u2", vip=True)], NOW)  # a call, not a run
    assert {customer_id: record["run"] for customer_id, record in records(database).items()} == {
        "u1": 4,
        "u2": 3,
    }


def test_since_when_the_oldest_waits(database: Database) -> None:
    """Where it was tried before, the time of the next attempt says nothing of that."""
    assert ask(database, outbox.waits_since) is None
    put(database, row("u1"), row("u2"), now=NOW)
    with database.write() as connection:
        add_changes(connection, [change("u1", "vip", None, True)], 1, NOW - 5)
        add_changes(connection, [change("u2", "vip", None, True)], 1, NOW - 9)
        outbox.acknowledge(connection, [as_claimed("u2", 1)], NOW)
    assert ask(database, outbox.waits_since) == NOW
    with database.write() as connection:
        outbox.postpone(connection, [("u1", 3, NOW + 900)])
    assert ask(database, outbox.waits_since) == NOW - 5
    put(database, row("u3"), now=NOW - 7)
    assert ask(database, outbox.waits_since) == NOW - 7
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u1", 1), as_claimed("u3", 1)], NOW)
    assert ask(database, outbox.waits_since) is None


def test_an_acknowledged_customer_is_not_due(database: Database) -> None:
    put(database, row("u1"), row("u2"))
    with database.write() as connection:
        add_changes(
            connection,
            [change(customer_id, "vip", None, True) for customer_id in ("u1", "u2")],
            1,
            NOW,
        )
        outbox.postpone(connection, [("u1", 2, NOW)])
        outbox.acknowledge(connection, [as_claimed("u1", 1)], NOW + 9)
    record = records(database)["u1"]
    assert (record["acked_rev"], record["acked_at"], record["due_at"]) == (1, NOW + 9, None)
    assert record["attempts"] == 0
    assert due_ids(database) == ["u2"]
    assert (delivered(database, "u1"), delivered(database, "u2")) == ([NOW + 9], [None])


def test_a_customer_that_changed_since_stays_due(database: Database) -> None:
    put(database, row("u1", vip=True))
    with database.write() as connection:
        add_changes(connection, [change("u1", "vip", None, True)], 1, NOW)
        snapshot.update_customers(connection, [row("u1", vip=False)], NOW + 1)
        add_changes(connection, [change("u1", "vip", True, False)], 2, NOW + 1)
        outbox.acknowledge(connection, [as_claimed("u1", 1)], NOW + 2)
    (customer,) = due(database, NOW + 1)
    assert (customer.rev, customer.traits) == (2, '{"vip": false}')
    assert records(database)["u1"]["acked_rev"] == 1
    assert delivered(database, "u1") == [NOW + 2, None]

    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u1", 2)], NOW + 3)
    assert due_ids(database, NOW + 9) == []
    assert delivered(database, "u1") == [NOW + 2, NOW + 3]


def test_one_acknowledgement_delivers_all_changes_up_to_it(database: Database) -> None:
    put(database, row("u1"))
    with database.write() as connection:
        for number in range(3):
            if number:
                snapshot.update_customers(connection, [row("u1")], NOW)
            add_changes(connection, [change("u1", "vip", None, number)], number, NOW)
        outbox.acknowledge(connection, [as_claimed("u1", 3)], NOW + 3)
    assert delivered(database, "u1") == [NOW + 3] * 3


def test_a_parked_customer_waits_for_a_change(database: Database) -> None:
    put(database, row("u1"), row("u2"))
    with database.write() as connection:
        add_changes(connection, [change("u1", "vip", None, True)], 1, NOW)
        outbox.postpone(connection, [("u1", 3, NOW)])
        outbox.dead_letter(connection, [as_claimed("u1", 1)])
    assert due_ids(database) == ["u2"]
    assert records(database)["u1"]["attempts"] == 0
    assert delivered(database, "u1") == [None]
    with database.write() as connection:
        assert outbox.adopt(connection, 7, NOW) == 1
        snapshot.update_customers(connection, [row("u2")], NOW)
        outbox.dead_letter(connection, [as_claimed("u2", 1)])
    assert due_ids(database) == ["u2"]
    with database.write() as connection:
        snapshot.update_customers(connection, [row("u1")], NOW)
        outbox.acknowledge(connection, [as_claimed("u1", 2), as_claimed("u2", 2)], NOW + 1)
    assert delivered(database, "u1") == [NOW + 1]


def sent_again(database: Database, **whom: Any) -> int:
    with database.write() as connection:
        return outbox.send_again(connection, NOW + 50, **whom)


def test_customers_can_be_sent_again(database: Database) -> None:
    put(database, row("u1"), row("u2"), row("u3"))
    with database.write() as connection:
        changes = [change("u1", "vip", None, True), change("u2", "churn", None, True)]
        changes += [change("u1", "vip", True, False), change("u3", "vip", None, True)]
        add_changes(connection, changes, 1, NOW)
        outbox.acknowledge(
            connection, [as_claimed(customer_id, 1) for customer_id in ("u1", "u2")], NOW + 1
        )
        outbox.dead_letter(connection, [as_claimed("u3", 1)])
    assert due_ids(database, NOW + 99) == []

    assert sent_again(database, customer_ids=["u2", "nobody"], run=0) == 1
    assert due_ids(database, NOW + 99) == due_ids(database, NOW + 99, run=0) == ["u2"]
    assert due_ids(database, NOW + 49) == []
    assert sent_again(database, customer_ids=["nobody"]) == 0
    assert sent_again(database, customer_ids=[]) == 0
    assert sent_again(database, key="vip") == 2
    assert due_ids(database, NOW + 99) == ["u1", "u2", "u3"]
    assert sent_again(database, key="no such") == 0

    with database.write() as connection:
        outbox.acknowledge(
            connection, [as_claimed(customer_id, 1) for customer_id in ("u1", "u2", "u3")], NOW + 60
        )
    assert {record["rev"] for record in records(database).values()} == {1}
    assert delivered(database, "u1") == [NOW + 1, NOW + 1]  # Amberflo knew it by then
    assert delivered(database, "u3") == [NOW + 60]
    assert sent_again(database) == 3
    assert due_ids(database, NOW + 99) == ["u1", "u2", "u3"]
    assert due_ids(database, NOW + 99, run=0) == []
    assert sent_again(database, key="vip", customer_ids=["u1", "u2"], run=4) == 1
    assert due_ids(database, NOW + 99, run=4) == ["u1"]


def test_more_customers_than_one_statement_takes_are_sent_again(database: Database) -> None:
    ids = [f"u{n:05d}" for n in range(2 * ROWS + 7)]
    put(database, *(row(id_) for id_ in ids))
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed(id_, 1) for id_ in ids], NOW)
    assert sent_again(database, customer_ids=ids[1:], run=4) == len(ids) - 1
    assert ask(database, lambda c: outbox.backlog(c, 4)) == len(ids) - 1


# What is put off, and what is sent to see


def test_what_is_put_off_waits_by_itself(database: Database) -> None:
    put(database, row("u1"), row("u2"), run=3)
    with database.write() as connection:
        rows = {customer.customer_id: customer for customer in outbox.claim(connection, 1, NOW, 9)}
        assert outbox.put_off(connection, [(rows["u1"], NOW + 900)]) == {3: 1}
        outbox.release(connection, ["u2"])
    assert records(database)["u1"]["line"] == lanes.PUT_OFF
    assert ask(database, lambda c: outbox.backlog(c, 3)) == 1
    assert ask(database, outbox.oldest_due) == NOW  # that of the other one
    assert due_ids(database, NOW + 899) == ["u2"]
    assert due_ids(database, NOW + 900) == ["u2", "u1"]
    with database.write() as connection:
        assert outbox.adopt(connection, 4, NOW + 1) == 1  # no run waits for it
    assert due_ids(database, NOW + 1, run=4) == ["u2", "u1"]  # but it is tried
    with database.write() as connection:
        snapshot.update_customers(connection, [row("u1", vip=True)], NOW + 2)
    record = records(database)["u1"]
    assert (record["line"], record["attempts"]) == (lanes.RUN, 0)


def test_a_run_tries_what_was_put_off_once(database: Database) -> None:
    """It would go on for as long as some customer is due again."""
    put(database, row("u1"), row("u2"), run=3)
    with database.write() as connection:
        rows = {customer.customer_id: customer for customer in outbox.claim(connection, 1, NOW, 9)}
        outbox.put_off(connection, [(rows["u1"], NOW + 900), (rows["u2"], NOW + 901)])
    with database.write() as connection:
        claimed = outbox.claim(connection, 1, NOW + 2000, 9, 3, NOW + 900)
    assert [customer.customer_id for customer in claimed] == ["u1"]


def test_what_changed_in_work_is_not_put_off(database: Database) -> None:
    put(database, row("u1"))
    with database.write() as connection:
        (claimed,) = outbox.claim(connection, 1, NOW, 9)
        snapshot.update_customers(connection, [row("u1", vip=True)], NOW + 1)
        outbox.put_off(connection, [(claimed, NOW + 900)])
    assert due_ids(database, NOW + 1) == ["u1"]


def test_who_is_sent_to_see_is_acknowledged_and_due_until_then(database: Database) -> None:
    put(database, row("u1"), row("u2"), row("u3"))
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u1", 1)], NOW)
        outbox.acknowledge(connection, [as_claimed("u2", 1)], NOW + 1)
        customers = chosen_claims.claim_acknowledged(connection, 1, NOW + 2, 1)
        assert [customer.customer_id for customer in customers] == ["u2"]
        assert customers[0].again
    assert due_ids(database, NOW + 2) == ["u3"]
    with database.write() as connection:
        outbox.dead_letter(connection, customers)
    assert due_ids(database, NOW + 2) == ["u3"]
    assert records(database)["u2"]["acked_rev"] == 1


def test_a_failure_keeps_the_time_when_it_failed_first(database: Database) -> None:
    first = failure("u1", attempts=1)
    with database.write() as connection:
        failures.put(connection, [first])
        failures.put(connection, [first._replace(failed_at=NOW + 5, attempts=2)])
        (entry,) = failures.find(connection)
        assert (entry.failed_at, entry.attempts) == (NOW, 2)
        assert failures.customers_since(connection, NOW + 1) == 0
