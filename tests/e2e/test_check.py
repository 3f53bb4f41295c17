"""`syncer check` says what a run would take, and what stands in the way of one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.daemon import daemon
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse


def result(installation: Installation, name: str, exit_code: int = 0) -> dict[str, Any]:
    results = installation.json("check", exit_code=exit_code)
    checked: dict[str, Any] = next(entry for entry in results if entry["check"] == name)
    return checked


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def test_the_traits_come_with_their_names_and_members(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(3, **{"Big Spender": "true", "total_revenue_30": "5"})
    warehouse.user("u9", **{"Big Spender": "false", "plan": "pro"})
    traits = result(installation, "traits")
    assert traits["message"] == "1 audiences, 1 computed traits"
    assert sorted(traits["traits"], key=lambda trait: str(trait["key"])) == [
        {"key": "Big Spender", "trait": "big_spender", "kind": "audience", "count": 3},
        {
            "key": "total_revenue_30",
            "trait": "total_revenue_30",
            "kind": "computed_trait",
            "count": 3,
        },
    ]
    shown = installation.run("check").stdout
    assert "Big Spender (big_spender at Amberflo): 3 members" in shown
    assert "total_revenue_30: 3 values" in shown


def test_keys_that_give_one_name_are_a_failure(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(3, **{"Big Spender": "true", "big_spender": "true", "vip": "true"})
    traits = result(installation, "traits", exit_code=1)
    assert not traits["ok"]
    assert "'Big Spender' and 'big_spender' give one trait name" in traits["message"]
    assert [trait["key"] for trait in traits["traits"]] == ["vip"]


def test_an_address_that_another_program_has_is_a_failure(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(1, vip="true")
    with taken_port() as port:
        installation.configure(more=f'[passthrough]\nlisten = "127.0.0.1:{port}"\n')
        assert result(installation, "passthrough", exit_code=1)["message"].startswith(
            f"passthrough.listen: cannot listen on 127.0.0.1:{port}: Address already in use"
        )
        assert result(installation, "ops", exit_code=1)["ok"]


def test_the_address_of_the_daemon_that_runs_is_none(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(1, vip="true")
    with daemon(installation) as running:
        port = running.url.rpartition(":")[2]
        os.environ["SYNCER_PASSTHROUGH__LISTEN"] = f"127.0.0.1:{port}"
        try:
            shown = result(installation, "passthrough")
        finally:
            del os.environ["SYNCER_PASSTHROUGH__LISTEN"]
        assert shown["ok"]
        assert shown["message"].startswith(f"127.0.0.1:{port} is in use by the daemon, process ")


def test_two_settings_with_one_address(installation: Installation, warehouse: Warehouse) -> None:
    warehouse.users(1, vip="true")
    with taken_port() as port:
        pass
    installation.configure(
        more=f'[passthrough]\nlisten = "127.0.0.1:{port}"\n[web]\nlisten = "127.0.0.1:{port}"\n'
        'token = "0123456789abcdef"\n'
    )
    assert result(installation, "passthrough", exit_code=1)["ok"]
    assert not result(installation, "web", exit_code=1)["ok"]


def test_what_the_source_cannot_see_is_said(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(1, vip="true")
    seen = result(installation, "source")
    assert (seen["unseen"], seen["cost"]) == ([], "queries of the warehouse")
    installation.configure(engage='source = "events"', more=WEBHOOK)
    assert "merges" in result(installation, "source")["unseen"]
    text = installation.run("check").stdout
    assert "it does not see values that are gone, who was deleted in Segment, profiles" in text
    assert "how late: at once; what a pull costs: nothing" in text


WEBHOOK = '[passthrough]\nwebhook_secret = "shared-webhook-secret-77"\nlisten = "127.0.0.1:0"\n'
