"""The model of the protocol (docs/model.md): its properties hold, and without a rule one fails. The
real code takes its orders step by step, and has after each step what the model says.

`ORDERS=500 pytest tests/contract/test_model.py` plays so many random orders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.membership import Place
from tests.support.hurry import hurry
from tests.support.spin import MODEL, check, random_order, trail

TEXT = (MODEL.parents[1] / "model.md").read_text()
#: The rule that only `converges` misses; all others make something unsafe.
LIVENESS = {9}
PLANTS = [int(number) for number in re.findall(r"\(PLANT == (\d+)\)", MODEL.read_text())]
#: Chosen so that few of them have as many kinds of steps in as many orders as possible.
SEEDS = (43, 93, 19, 398, 217, 320, 327, 231)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch.setattr)
        with Place.open(tmp_path_factory.mktemp("membership")) as place:
            yield place


def test_the_model_is_safe(tmp_path: Path) -> None:
    errors, states = check(tmp_path, "safe")
    assert errors == 0
    assert f"{states:,} states" in TEXT


def test_a_smaller_one_converges(tmp_path: Path) -> None:
    """The whole one takes a minute of processor time: `converges` without `-DLAST=1`."""
    assert check(tmp_path, "converges", "-DLAST=1")[0] == 0


@pytest.mark.parametrize("number", PLANTS)
def test_without_a_rule_a_property_fails(tmp_path: Path, place: Place, number: int) -> None:
    prop = "converges" if number in LIVENESS else "safe"
    assert check(tmp_path, prop, f"-DPLANT={number}")[0] == 1
    assert re.search(rf"^\| {number} \|", TEXT, re.MULTILINE)
    with place.fresh(number) as membership:
        membership.play_what_can_be(trail(tmp_path, f"-DPLANT={number}"))
        membership.end_well()


def test_the_real_code_goes_the_way_of_the_model(tmp_path: Path, place: Place) -> None:
    long, taken = int(os.environ.get("ORDERS", "0")), set()
    for seed in range(long) if long else SEEDS:
        steps = random_order(tmp_path, seed)
        with place.fresh(seed) as membership:
            played = membership.play(steps)
            membership.end_well()
        taken |= {step.what for step in steps[:played]}
    assert taken == kinds()


def kinds() -> set[str]:
    """The steps that the model prints."""
    return set(re.findall(r"tell\((\w+), ", MODEL.read_text())) - {"step"}
