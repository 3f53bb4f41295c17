"""Random populations on both sides: the parity report is what a plain comparison of the two finds,
and after `adopt --apply` the first sync writes those that differ and nobody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.hurry import hurry
from tests.support.installation import Installation, installed
from tests.support.warehouse import Warehouse

AUDIENCES = ("vip", "gold")
COMPUTED = ("total_a", "total_b")
PEOPLE = {"name": "customerName", "email": "customerEmail"}

booleans = st.sampled_from(["true", "false"])
numbers = st.sampled_from(["5", "7", "a/b", "text"])
#: What Amberflo may have under any name: as JSON, as text, and what no Engage ever said.
anything = st.sampled_from([True, False, "true", "false", 5, "5", 5.0, "7", "a_b", "text", "x"])
in_engage = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(AUDIENCES, booleans),
        **dict.fromkeys(COMPUTED, numbers),
        "name": st.sampled_from(["Ada", "Bob"]),
        "email": st.sampled_from(["a@x", "b@x"]),
    },
)
at_amberflo = st.fixed_dictionaries(
    {
        "customerName": st.sampled_from(["Ada", "Bob", "id"]),
        "traits": st.fixed_dictionaries(
            {},
            optional=dict.fromkeys((*AUDIENCES, *COMPUTED, "plan", "Vip", "TOTAL A"), anything),
        ),
    },
    optional={"customerEmail": st.sampled_from(["a@x", "c@x"])},
)
#: A customer on both sides; None: it is not there. A twin has on both sides what Engage says.
customer = st.tuples(st.none() | in_engage, st.none() | at_amberflo) | in_engage.map(
    lambda traits: (traits, as_written(traits))
)
population = st.dictionaries(
    st.sampled_from([f"{letter}{n}" for letter in "aZé" for n in range(9)]),
    customer,
    min_size=8,
    max_size=20,
)

Json = dict[str, Any]


def as_written(traits: dict[str, str]) -> Json:
    """The record of a customer that is right."""
    mine = {name: value.replace("/", "_") for name, value in traits.items() if name not in PEOPLE}
    people = {PEOPLE[name]: value for name, value in traits.items() if name in PEOPLE}
    return {"customerName": "id", **people, "traits": mine}


def text(value: Any) -> str | None:
    """A value as Amberflo's store of texts has it."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(int(value) if isinstance(value, float) else value)


def plain_comparison(
    engage: dict[str, dict[str, str]], amberflo: dict[str, Json]
) -> dict[str, set[tuple[str, str | None, str | None]]]:
    """Every customer that must be there, and where it differs: (name, by Engage, there)."""
    ours = {key for traits in engage.values() for key in traits} - PEOPLE.keys()
    by_customer: dict[str, set[tuple[str, str | None, str | None]]] = {}
    for customer_id, traits in engage.items():
        record = amberflo.get(customer_id)
        held = {} if record is None else record["traits"]
        differs = set()
        for key in ours:
            is_there, says = text(held.get(key)), traits.get(key)
            says = None if says is None else says.replace("/", "_")
            not_in_it = key in AUDIENCES and says is None and is_there == "false"
            if is_there != says and not not_in_it:
                differs.add((key, says, is_there))
        member = any(traits.get(key) == "true" for key in AUDIENCES)
        # Nobody of ours, unless Amberflo holds what Engage does not say.
        corrected = any(is_there is not None for _, _, is_there in differs)
        if not (member or corrected or any(key in traits for key in COMPUTED)):
            continue
        name = traits.get("name") or (record or {}).get("customerName") or customer_id
        if name != (record or {}).get("customerName"):
            differs.add(("customerName", name, (record or {}).get("customerName")))
        email = traits.get("email")
        if email is not None and email != (record or {}).get("customerEmail"):
            differs.add(("customerEmail", email, (record or {}).get("customerEmail")))
        by_customer[customer_id] = differs
    return by_customer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, Warehouse]]:
    folder: Path = tmp_path_factory.mktemp("parity")
    patch = pytest.MonkeyPatch()
    hurry(patch.setattr)
    with installed(folder) as installation:
        installation.configure(
            engage='audiences = ["vip", "gold"]\ncomputed_traits = ["total_*"]',
            more="[guard]\nmax_exits = 1\nsmall_max_exits = 1\n",
        )
        warehouse = Warehouse(folder / "engage.db")
        yield installation, warehouse
        warehouse.close()
    patch.undo()


@examples(5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(both=population)
def test_the_report_is_what_a_plain_comparison_finds(
    place: tuple[Installation, Warehouse], both: dict[str, tuple[Any, Any]]
) -> None:
    installation, warehouse = place
    for path in installation.folder.glob("syncer.db*"):
        path.unlink()
    engage = {id_: traits for id_, (traits, _) in both.items() if traits is not None}
    amberflo = {id_: deepcopy(record) for id_, (_, record) in both.items() if record is not None}
    # A customer with a trait of ours on each side, so that every name is ours.
    engage["every"] = {**dict.fromkeys(AUDIENCES, "true"), **dict.fromkeys(COMPUTED, "5")}
    amberflo["every"] = as_written(engage["every"])
    with warehouse.db:
        warehouse.db.execute("BEGIN")
        for table in ("user_traits", "user_identifiers"):
            warehouse.db.execute(f"DELETE FROM {table}")
        for customer_id, traits in engage.items():
            warehouse.user(customer_id, **traits)
    installation.amberflo.customers.clear()
    for customer_id, record in amberflo.items():
        installation.amberflo.customers[customer_id] = {
            "customerId": customer_id,
            "id": customer_id,
            **record,
        }
    wanted = plain_comparison(engage, amberflo)
    differing = {id_ for id_, differs in wanted.items() if differs}

    report = installation.json("adopt", "--customers", exit_code=int(bool(differing)))
    reported: dict[str, set[tuple[Any, ...]]] = {id_: set() for id_ in wanted}
    for row in report["differences"]:
        reported[row["customer_id"]].add((row["trait"], text(row["expected"]), text(row["actual"])))
    assert reported == wanted
    assert report["missing"] == sorted(wanted.keys() - amberflo.keys(), key=str.encode)
    assert report["unknown"] == sorted(amberflo.keys() - engage.keys(), key=str.encode)
    counts = report["parity"]["customers"]
    assert counts["equal"] == len(wanted) - len(differing)
    for row in report["parity"]["traits"]:
        kinds = [
            "missing" if actual is None else "unexpected" if says is None else "differ"
            for differs in wanted.values()
            for name, says, actual in differs
            if name == row["trait"]
        ]
        assert {kind: row[kind] for kind in ("missing", "unexpected", "differ")} == {
            kind: kinds.count(kind) for kind in ("missing", "unexpected", "differ")
        }
    spelled = {
        (row["trait"], row["there"]): row["customers"] for row in report["parity"]["spellings"]
    }
    assert spelled == {
        pair: number
        for pair in (("vip", "Vip"), ("total_a", "TOTAL A"))
        if (number := sum(pair[1] in record["traits"] for record in amberflo.values()))
    }

    installation.amberflo.reset_stats()
    installation.run("adopt", "--apply")
    assert installation.puts() == {}
    installation.json("sync")
    assert installation.puts() == dict.fromkeys(differing, 1)
    after = installation.json("diff", "--amberflo")["parity"]
    assert after["good"], after
    for customer_id in amberflo.keys() - differing:
        record = installation.amberflo.customers[customer_id]
        assert {field: record.get(field) for field in amberflo[customer_id]} == amberflo[
            customer_id
        ]
