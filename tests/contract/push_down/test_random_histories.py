"""Random histories of two worlds: whatever changes in the warehouse, whatever calls come, whoever
decides, both believe the same after each run."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.contract.push_down.worlds import CUSTOMERS, Pair
from tests.support import postgres
from tests.support.examples import examples

Step = tuple[str, tuple[object, ...]]

who = st.sampled_from([*CUSTOMERS, "new"])
audiences = st.sampled_from(["vip", "gold"])
keys = st.sampled_from(["vip", "gold", "total", "name"])
hours = st.sampled_from([0.0, 0.0, 1.0, 4.0, 8.0])
#: By name: what the method of `Pair` gets. What happens often is there twice.
STEPS: list[tuple[str, list[st.SearchStrategy[object]]]] = [
    ("say", [who, audiences, st.sampled_from(["true", "false", None])]),
    ("say", [who, st.sampled_from(["total", "name"]), st.sampled_from(["5", "6", None])]),
    ("again", [who, keys]),
    ("lose", [who, keys]),
    ("arrive", [who, st.sampled_from(["true", "false"])]),
    ("delete", [who]),
    ("merge", [who, who]),
    ("call", [who, audiences, st.booleans(), hours, hours]),
    ("call", [who, audiences, st.booleans()]),
    ("call_meanwhile", [who, audiences, st.booleans()]),
    ("identify", [who, st.sampled_from([None, "Ada", "5"]), hours]),
    ("forget", [who]),
    ("let_in", [who]),
    ("passes", [st.sampled_from([1.0, 4.0, 25.0])]),
    ("many_leave", [audiences]),
    ("sync", []),
    ("full", []),
    ("full", []),
    ("resync", [who]),
    *((name, []) for name in ("approve", "reject", "lift", "lose_scratch")),
]


@st.composite
def steps(draw: DrawFn) -> Step:
    name, arguments = draw(st.sampled_from(STEPS))
    return name, tuple(draw(each) for each in arguments)


@given(history=st.lists(steps(), min_size=8, max_size=30))
@examples(
    6,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_both_worlds_believe_the_same(history: list[Step], postgres_database: str) -> None:
    postgres.clear(postgres_database)
    with Pair.opened(postgres_database) as pair:
        for name, arguments in history:
            step: Callable[..., None] = getattr(pair, name)
            step(*arguments)
        pair.full()
        pair.passes(5)
        pair.say("u2", "total", "9")  # so that the pull must know of all calls
        pair.full()
        pair.full()
        assert pair.narrow
