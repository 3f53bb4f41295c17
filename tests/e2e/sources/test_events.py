"""A set-up without a pull: memberships by signed webhook alone (docs/sources.md)."""

from __future__ import annotations

import pytest

from tests.support.desk import take
from tests.support.events import ago, engage_call
from tests.support.installation import Installation

WEBHOOK = '[passthrough]\nwebhook_secret = "shared-webhook-secret-77"\nlisten = "127.0.0.1:0"\n'


@pytest.fixture
def by_calls(installation: Installation) -> Installation:
    installation.configure(engage='source = "events"\ncomputed_traits = ["total_*"]', more=WEBHOOK)
    return installation


def test_calls_alone_make_members_and_end_memberships(by_calls: Installation) -> None:
    by_calls.run("sync")
    take(
        by_calls,
        engage_call("u1", "vip", True, ago(3)),
        engage_call("u2", "vip", True, ago(3)),
        engage_call("u3", "vip", False, ago(3)),
        engage_call("u1", "total_1", 12.5, ago(3), what="trait"),
        engage_call("u1", "nothing_of_ours", 12.5, ago(3), what="trait"),
    )
    assert by_calls.members("vip") == set()  # no run took the key up yet
    by_calls.run("sync")
    take(by_calls)
    by_calls.run("sync")
    assert by_calls.members("vip") == {"u1", "u2"}
    assert by_calls.values("total_1") == {"u1": 12.5}
    assert set(by_calls.amberflo.customers) == {"u1", "u2"}

    take(by_calls, engage_call("u2", "vip", False, ago(1)), engage_call("u4", "vip", True, ago(1)))
    take(by_calls, engage_call("u3", "vip", True, ago(4)))  # its exit, which waited, overtook it
    by_calls.run("sync")
    assert by_calls.values("vip") == {"u1": True, "u2": False, "u4": True}


def test_a_run_never_takes_silence_for_an_exit(by_calls: Installation) -> None:
    take(by_calls, *(engage_call(f"u{n}", "vip", True, ago(3)) for n in range(20)))
    by_calls.run("sync")
    take(by_calls)
    everybody = {f"u{n}" for n in range(20)}
    for command in (["sync"], ["sync", "--full"], ["resync", "--yes"], ["sync", "--full"]):
        by_calls.run(*command)
        assert by_calls.members("vip") == everybody, command
    by_calls.amberflo.customers["u3"]["traits"]["vip"] = "false"
    by_calls.amberflo.customers["u4"]["traits"].pop("vip")
    by_calls.amberflo.customers["u5"]["traits"]["plan"] = "of others"
    assert by_calls.json("diff", "--amberflo")["customers"]["changed"] == 2
    by_calls.run("sync", "--full")  # what Amberflo lost is put back
    assert by_calls.members("vip") == everybody
    assert by_calls.values("plan") == {"u5": "of others"}
    by_calls.run("verify")


def test_a_call_that_no_signature_covers_makes_no_key_ours(by_calls: Installation) -> None:
    take(by_calls, engage_call("u1", "vip", True, ago(3)), key="server")
    by_calls.run("sync")
    take(by_calls)
    by_calls.run("sync")
    assert by_calls.amberflo.customers == {}


def test_check_says_what_such_a_set_up_cannot_see(by_calls: Installation) -> None:
    take(by_calls, engage_call("u1", "vip", True, ago(3)))
    results = {result["check"]: result for result in by_calls.json("check")}
    assert results["source"]["message"] == "calls by webhook: 1 trait rows of 1 keys"
    (unseen, delay) = results["source"]["advice"]
    assert "there is no pull: what no call says is not seen" in unseen
    assert "counts from the next run on" in delay
    assert [trait["key"] for trait in results["traits"]["traits"]] == ["vip"]


def test_why_names_the_call(by_calls: Installation) -> None:
    take(by_calls, engage_call("u1", "vip", True, ago(3)))
    by_calls.run("sync")
    take(by_calls)
    by_calls.run("sync")
    assert "webhook" in by_calls.run("why", "u1", "vip").stdout


@pytest.mark.parametrize(
    ("engage", "more", "line"),
    [
        ("", "", "passthrough.webhook_secret"),
        ('customer_id = "account_id"', WEBHOOK, "engage.customer_id: calls name a customer by"),
        ('filter = "NOT gone"', WEBHOOK, "engage.filter: it is a condition of SQL"),
    ],
)
def test_settings_that_cannot_work_are_told(
    installation: Installation, engage: str, more: str, line: str
) -> None:
    installation.configure(engage=f'source = "events"\n{engage}', more=more)
    assert line in installation.run("sync", exit_code=2).stderr
