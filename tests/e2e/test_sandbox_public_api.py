"""The stand-in for the Public API is as strict as the documents (docs/facts/segment.md §1.2)."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from syncer.sandbox.engage import REVENUE, EngageSandbox
from syncer.sandbox.public_api import LIMITS, Listed, PublicApiSandbox, listed_by, running

TOKEN, SPACE = "sgp_token", "space"
V1 = "application/vnd.segment.v1+json"
V1BETA = "application/vnd.segment.v1beta+json"
V1ALPHA = "application/vnd.segment.v1alpha+json"


class Space(PublicApiSandbox):
    """A space with a clock that the test sets, and a way to ask it."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0
        super().__init__(TOKEN, SPACE, clock=lambda: self.now)

    def get(
        self, path: str, accept: str = V1, *, token: str = f"Bearer {TOKEN}", **query: str
    ) -> httpx.Response:
        params = {name.replace("_", "."): value for name, value in query.items()}
        headers = {"accept": accept, "authorization": token}
        return self.http.get(path, params=params, headers=headers)


@pytest.fixture
def space() -> Iterator[Space]:
    space = Space()
    with running(space) as url, httpx.Client(base_url=url, trust_env=False) as space.http:
        yield space


AUDIENCES, TRAITS = f"/spaces/{SPACE}/audiences", f"/spaces/{SPACE}/computed-traits"


def error(answer: httpx.Response) -> dict[str, Any]:
    """The one error of the envelope."""
    assert answer.json().keys() == {"errors"}
    (error,) = answer.json()["errors"]
    assert error["message"]
    assert isinstance(error["type"], str)
    return dict(error)


def test_an_audience_as_each_version_has_it(space: Space) -> None:
    space.listed = [Listed("vip", "Vip", size=12), Listed("bare", status=None, of="LINKED")]
    for accept in (V1, V1BETA):
        vip, bare = space.get(AUDIENCES, accept).json()["data"]["audiences"]
        assert (vip["key"], vip["name"], vip["status"], vip["enabled"]) == (
            *("vip", "Vip", "Live"),
            True,
        )
        assert (vip["audienceType"], vip["size"]) == ("USERS", {"count": 12, "type": "USERS"})
        assert "type" not in vip["definition"]
        assert bare["audienceType"] == "LINKED"
        assert not bare.keys() & {"status", "size"}
    vip = space.get(AUDIENCES, V1ALPHA).json()["data"]["audiences"][0]
    assert vip["definition"]["type"] == "USERS"
    assert not vip.keys() & {"audienceType", "size"}


def test_computed_traits_are_alpha(space: Space) -> None:
    space.listed = [Listed("vip"), Listed("spent", kind="computed_trait")]
    (trait,) = space.get(TRAITS, V1ALPHA).json()["data"]["computedTraits"]
    assert (trait["key"], trait["definition"]["type"]) == ("spent", "USERS")
    for accept in (V1, V1BETA):
        answer = space.get(TRAITS, accept)
        assert (answer.status_code, "v1alpha" in error(answer)["message"]) == (404, True)
    for accept in ("application/json", "*/*", "application/vnd.segment.v2+json"):
        assert space.get(AUDIENCES, accept).status_code == 404


def test_pages_follow_their_cursor(space: Space) -> None:
    space.listed = [Listed(f"a{n}") for n in range(5)]
    keys: list[str] = []
    query = {"pagination_count": "2"}
    for more in (True, True, False):
        data = space.get(AUDIENCES, **query).json()["data"]
        keys += [audience["key"] for audience in data["audiences"]]
        assert data["pagination"]["totalEntries"] == 5
        assert ("next" in data["pagination"]) is more
        query["pagination_cursor"] = data["pagination"].get("next", "")
    assert keys == [f"a{n}" for n in range(5)]
    assert [query for _, query in space.requests][1] == {
        "pagination.count": "2",
        "pagination.cursor": "Mg==",
    }


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"pagination_count": "0"}, 422, "pagination.count"),
        ({"pagination_count": "201"}, 422, "pagination.count"),
        ({"pagination_count": "ten"}, 422, "pagination.count"),
        ({"pagination": "{'count': 2}"}, 422, "pagination"),
        ({"count": "2"}, 422, "count"),
        ({"pagination_cursor": "2"}, 422, "pagination.cursor"),
        ({"pagination_cursor": "bm8="}, 422, "pagination.cursor"),
        ({"pagination_cursor": "NTAw"}, 404, None),
        ({"include": "everything"}, 422, "include"),
    ],
)
def test_a_wrong_page_is_refused(
    space: Space, query: dict[str, str], status: int, field: str | None
) -> None:
    answer = space.get(AUDIENCES, **query)
    assert answer.status_code == status
    assert error(answer).get("field") == field
    assert space.get(AUDIENCES, pagination_count="200", include="schedules").status_code == 200


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer wrong", TOKEN, f"Basic {TOKEN}"])
def test_a_token_is_needed(space: Space, token: str) -> None:
    answer = space.get(AUDIENCES, token=token)
    assert answer.status_code == 401
    error(answer)


@pytest.mark.parametrize(
    "path",
    ["/spaces/other/audiences", f"/spaces/{SPACE}", f"{AUDIENCES}/aud_1", f"/v1{AUDIENCES}", "/"],
)
def test_what_is_not_there(space: Space, path: str) -> None:
    answer = space.get(path)
    assert answer.status_code == 404
    error(answer)


@pytest.mark.parametrize(
    ("path", "which", "accept"),
    [(AUDIENCES, "audiences", V1), (TRAITS, "computed-traits", V1ALPHA)],
)
def test_each_list_has_its_limit_a_minute(space: Space, path: str, which: str, accept: str) -> None:
    limit = LIMITS[which]
    for taken in range(1, limit + 1):
        answer = space.get(path, accept)
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-consumed"] == str(taken)
        assert answer.headers["x-ratelimit-remaining"] == str(limit - taken)
        reset = parsedate_to_datetime(answer.headers["x-ratelimit-reset"])
        assert reset.timestamp() == space.now + 60
    space.now += 20.5
    answer = space.get(path, accept)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "40")
    assert error(answer) == {
        "type": "RequestError",
        "message": "Too many requests",
        "data": {"remainingPoints": 0, "msBeforeNext": 39500, "consumedPoints": limit + 1},
    }
    other, its = (TRAITS, V1ALPHA) if path == AUDIENCES else (AUDIENCES, V1)
    assert space.get(other, its).status_code == 200, "each list has a limit of its own"
    space.now += 39.5
    assert space.get(path, accept).status_code == 200
    assert space.stats()["requests"][which] == limit + 2


def test_it_lists_what_the_stand_in_for_engage_computes(tmp_path: Path) -> None:
    engage = EngageSandbox(f"sqlite:///{tmp_path / 'engage.db'}", seed=3)
    engage.fill(400, 4)
    computations = {computation.key: computation for computation in listed_by(engage)}
    assert {
        key for key, computation in computations.items() if computation.kind == "audience"
    } == set(engage.audiences)
    assert computations[REVENUE].kind == "computed_trait"
    with_ids = dict.fromkeys(engage.audiences, 0)
    for customer in engage.expected():
        for key in engage.audiences:
            with_ids[key] += customer.traits.get(key) is True
    for key, count in with_ids.items():
        size = computations[key].size
        assert size is not None
        assert abs(size - count) < 20, "but for profiles with no id or two"
    evolution = engage.evolve(fraction=0.2)
    assert sum(evolution.entered.values()) > 20
    assert listed_by(engage) != list(computations.values())
    engage.close()
