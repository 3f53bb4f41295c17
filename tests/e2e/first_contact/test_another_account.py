"""A state that meets another account of Amberflo."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncer.sandbox.amberflo import AmberfloSandbox, running
from tests.e2e.first_contact.helpers import seed
from tests.support.installation import API_KEY, Installation
from tests.support.warehouse import Warehouse


@pytest.fixture
def other_account() -> Iterator[tuple[AmberfloSandbox, str]]:
    amberflo = AmberfloSandbox(API_KEY)
    with running(amberflo) as url:
        yield amberflo, url


@pytest.mark.parametrize("command", [("sync",), ("sync", "--full"), ("resync", "--yes")])
def test_another_account_is_refused(
    installation: Installation,
    warehouse: Warehouse,
    other_account: tuple[AmberfloSandbox, str],
    command: tuple[str, ...],
) -> None:
    warehouse.users(30, vip="true")
    installation.run("sync")
    other, installation.amberflo_url = other_account
    installation.configure()
    refused = installation.run(*command, exit_code=(1, 2))
    assert "--new-account" in refused.stderr
    assert other.customers == {}


def test_another_account_is_filled_by_your_word(
    installation: Installation,
    warehouse: Warehouse,
    other_account: tuple[AmberfloSandbox, str],
) -> None:
    warehouse.users(30, vip="true")
    warehouse.say("u00", "vip", "false")
    installation.run("sync")
    other, installation.amberflo_url = other_account
    installation.configure()
    seed(Installation(installation.folder, other, ""), "u00", vip=True)
    installation.run("sync", "--new-account")
    assert {
        customer_id: record["traits"]["vip"] for customer_id, record in other.customers.items()
    } == {f"u{number:02}": number > 0 for number in range(30)}
    installation.run("sync")
    installation.run("verify")


def test_another_key_of_the_same_account_goes_on(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(30, vip="true")
    installation.run("sync")
    installation.amberflo._key = b"a-new-key"
    installation.configure(api_key="a-new-key")
    warehouse.say("u00", "vip", "false")
    installation.run("sync")
    assert len(installation.members("vip")) == 29


def test_a_mass_exit_in_another_account_is_held_too(
    installation: Installation, warehouse: Warehouse, other_account: tuple[AmberfloSandbox, str]
) -> None:
    ids = warehouse.users(40, ago=40, vip="true", gold="true")
    for customer_id in ids[:20]:
        warehouse.say(customer_id, "vip", "false", ago=30)
    installation.run("sync")
    amberflo, url = other_account
    for customer_id in ids:
        amberflo.customers[customer_id] = {
            "customerId": customer_id, "id": customer_id, "customerName": customer_id,
            "traits": {"vip": True},
        }  # fmt: skip
    installation.amberflo, installation.amberflo_url = amberflo, url
    installation.configure()
    installation.run("sync", "--new-account", exit_code=3)
    assert installation.members("vip") == set(ids)
    assert installation.members("gold") == set(ids)
    run = installation.json("runs", "--limit", "1")[0]["run"]
    installation.run("runs", "approve", "--yes", str(run))
    assert installation.members("vip") == set(ids[20:])


def test_another_account_that_cannot_be_read_changes_nothing(
    installation: Installation, warehouse: Warehouse, other_account: tuple[AmberfloSandbox, str]
) -> None:
    warehouse.users(5, ago=40, vip="true")
    installation.run("sync")
    here = installation.amberflo, installation.amberflo_url
    installation.amberflo, installation.amberflo_url = other_account
    installation.configure(api_key="mistyped")
    installation.run("sync", "--new-account", exit_code=1)
    installation.amberflo, installation.amberflo_url = here
    installation.configure()
    assert installation.json("sync")["state"] == "done"
