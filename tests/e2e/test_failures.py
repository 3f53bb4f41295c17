"""`syncer failures` where there are many: what it lists, sends again and discards."""

from __future__ import annotations

import time
from contextlib import closing

import orjson
import pytest

from state import failures
from state.db.database import Database
from state.failures import CHUNK, FailureRow
from syncer.cli import failures as command
from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation

MANY = 2 * CHUNK + 1


@pytest.fixture
def refused(installation: Installation, engage: EngageSandbox) -> Installation:
    """Meter records that Amberflo refused, as many as are read in three parts, and two calls that
    could not be taken."""
    engage.fill(1, 1)
    now = time.time_ns() // 1_000_000
    rows = []
    for number in range(MANY):
        record = {
            "uniqueId": f"m{number}", "meterApiName": "ApiCalls", "customerId": f"c{number % 5}",
            "meterTimeInMillis": now, "meterValue": 1, "dimensions": {},
        }  # fmt: skip
        rows.append(
            FailureRow(
                ref=f"meter:m{number}", kind=failures.METER, reason="no such meter", failed_at=now,
                customer_id=f"c{number % 5}", message_id=f"m{number}", status=400,
                request=orjson.dumps(record).decode(), body="",
            )
        )  # fmt: skip
    calls = [failures.call(str(ordinal), None, "no userId", "{}", now) for ordinal in range(2)]
    url = f"sqlite:///{installation.folder / 'syncer.db'}"
    with closing(Database.open(url)) as database, database.write() as connection:
        failures.put(connection, [*rows, *calls])
    return installation


def test_the_newest_are_shown_and_all_of_them_as_json(
    refused: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = refused.json("failures")
    assert [row["id"] for row in rows] == list(range(1, MANY + 3))
    assert refused.json("failures", "list", "--limit", "2") == rows[-2:]
    assert [row["retryable"] for row in rows] == [*[True] * MANY, False, False]
    theirs = [row for row in rows if row["customer_id"] == "c3"]
    assert refused.json("failures", "--customer", "c3") == theirs
    assert refused.json("failures", "--customer", "c3", "--limit", "1") == theirs[-1:]
    assert refused.json("failures", "--customer", "nobody") == []

    shown = refused.run("failures", "--limit", "3").stdout
    assert f"and {MANY - 1:,} older ones: --limit shows more, --json all" in shown
    assert shown.count("no userId") == 2
    assert f"m{MANY - 1} " in shown
    monkeypatch.setattr(command, "TABLE", 10)
    shown = refused.run("failures", "--customer", "c3").stdout
    assert f"and {len(theirs) - 10:,} older ones" in shown
    assert "older" not in refused.run("failures", "--limit", str(MANY + 2)).stdout


def test_all_are_sent_again_but_for_what_can_only_be_discarded(refused: Installation) -> None:
    done = refused.run("failures", "retry", "--all")
    assert "2 calls are invalid: no retry helps, they stay until discarded" in done.stderr
    assert f"{MANY:,} delivered, 0 refused again" in done.stderr
    sent = sorted(record["uniqueId"] for record in refused.amberflo.records)
    assert sent == sorted(f"m{number}" for number in range(MANY))
    remaining = [row["id"] for row in refused.json("failures")]
    assert remaining == [MANY + 1, MANY + 2]
    said = refused.run("failures", "retry", str(remaining[0]), exit_code=1).stderr
    assert "it can only be discarded" in said
    assert refused.json("failures", "discard", "--all") == {"discarded": 2}


def test_where_amberflo_is_away_what_was_not_tried_stays(refused: Installation) -> None:
    refused.configure(ingest_url="http://127.0.0.1:9/ingest", patience="0.3s")
    done = refused.run("failures", "retry", "--all", exit_code=1)
    assert "0 delivered, 0 refused again" in done.stderr
    assert f"error: Amberflo did not take {CHUNK:,} meter records in time" in done.stderr
    remaining = refused.json("failures")
    assert [row["message_id"] for row in remaining[:-2]] == [f"m{n}" for n in range(CHUNK, MANY)]
    assert refused.json("status")["backlog"]["events"] == CHUNK
