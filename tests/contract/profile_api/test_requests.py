"""What the Profile API is asked, and what its answers mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from syncer.engage import sweep
from syncer.engage.source import Everything, OnlyCustomers
from syncer.errors import SourceError
from syncer.sandbox.faults import Faults

from .helpers import AT, ProfileApiSpace


def test_an_id_is_asked_for_in_small_letters_and_percent_encoded(space: ProfileApiSpace) -> None:
    odd = ["U-Ada", "a+b@example.com", "a/b?c=d&e", "100% sure", "ünïcode 🦊", "..", "a:b", "a#b"]
    for customer_id in odd:
        space.put(customer_id, vip=True)
    assert space.pulled() == {customer_id: {"vip": "true"} for customer_id in odd}
    assert space.sandbox.stats() == {
        "answers": {200: len(odd)},
        "reads": {f"user_id:{customer_id.lower()}": 1 for customer_id in odd},
    }
    assert {query["limit"] for _, query in space.sandbox.requests} == {"200"}


def test_every_page_of_a_profile_is_read_whatever_a_page_holds(space: ProfileApiSpace) -> None:
    traits = {f"trait_{number:03d}": number for number in range(450)}
    space.put("u1", **traits)
    for page, requests in ((200, 3), (60, 8)):
        space.sandbox.page = page
        space.sandbox.reset_stats()
        texts = {name: str(number) for name, number in traits.items()}
        assert space.pulled(keys=traits) == {"u1": texts}
        asked = [query["limit"] for _, query in space.sandbox.requests]
        assert len(asked) == requests
        assert set(asked[1:]) == {str(page)}  # a page may be smaller than what was asked for


def test_values_come_as_profiles_sync_writes_them_with_segments_time(
    space: ProfileApiSpace,
) -> None:
    values = {"yes": True, "no": False, "n": 450.5, "text": "it's", "list": ["a", 1], "none": None}
    space.put("u1", **values)
    texts = {"yes": "true", "no": "false", "n": "450.5", "text": "it's", "list": '["a",1]'}
    assert space.pulled(keys=values) == {"u1": {**texts, "none": None}}
    with space.source().pull(Everything()) as pull:
        (row,) = pull.customers(list(values))
        assert set(json.loads(row.times)) == {AT}


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_or_space_is_one_line(space: ProfileApiSpace, status: int) -> None:
    space.put("u1", vip=True)
    wrong = {"token": "wrong"} if status == 401 else {"space_id": "other"}
    for ask in (lambda: space.pulled(**wrong), lambda: space.source(**wrong).survey()):
        with pytest.raises(SourceError, match=rf"status {status}\): set engage.profile_api\.token"):
            ask()


def test_a_refusal_of_one_profile_is_about_that_one(space: ProfileApiSpace) -> None:
    """A 403 of one id is held against another request before the token counts as refused."""
    for customer_id in ("u1", "u2", "u3"):
        space.put(customer_id, vip=True)
    space.sandbox.broken = {"user_id:u1": 403, "user_id:u2": 400}
    with space.source().pull(Everything()) as pull:
        assert [row.customer_id for row in pull.customers(["vip"])] == ["u3"]
        assert pull.absence().unread(["u1", "u2", "u3", "new"]) == {"u1", "u2", "new"}
        assert pull.identified(["u1", "u2", "u3"]) == {"u3"}
    assert space.said.lines[-1] == (
        "3 ids were asked for: Segment knows 1 of them, and 0 not; 2 could not be read and are "
        "left as they are"
    )
    with pytest.raises(SourceError, match=r"does not tell the profile of 'u1': status 403"):
        space.pulled(OnlyCustomers(("u1",)))


NO_PROFILE = {
    "a page of a proxy": (404, b"<html>Not Found</html>"),
    "no object": (404, b'["not_found"]'),
    "no cursor": (200, b'{"traits": {}}'),
    "an empty cursor": (200, b'{"traits": {}, "cursor": {}}'),
    "a cursor that says nothing": (200, b'{"traits": {}, "cursor": {"has_more": null}}'),
    "nothing": (204, b""),
    "drops": (200, b'{"traits": {}, "cursor": {"has_more": false}}'),
}


@pytest.mark.parametrize("kind", NO_PROFILE)
def test_an_answer_that_is_not_segments_word_ends_no_membership(
    space: ProfileApiSpace, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, and then its customer is left as it is."""
    for customer_id in ("u1", "u2"):
        space.put(customer_id, vip=True)
    status, body = NO_PROFILE[kind]
    answered = space.sandbox._answer

    async def drops() -> AsyncIterator[bytes]:
        for byte in body:  # each in time, and all of them too late
            yield bytes([byte])
            await asyncio.sleep(0.02)

    def answer(request: web.BaseRequest) -> web.Response:
        if "user_id:u1/" not in request.path:
            return answered(request)
        return web.Response(status=status, body=drops() if kind == "drops" else body)

    monkeypatch.setattr(space.sandbox, "_answer", answer)
    monkeypatch.setattr(sweep, "TRIES", 1)
    with space.source(timeout=0.3).pull(Everything()) as pull:
        assert [row.customer_id for row in pull.customers(["vip"])] == ["u2"]
        assert pull.absence().unread(["u1", "u2"]) == {"u1"}
        assert pull.identified(["u1"]) == set()


def test_a_space_that_knows_nobody_is_a_wrong_space(space: ProfileApiSpace) -> None:
    space.ids = ["u1", "u2"]
    with pytest.raises(SourceError, match=r"knows none of the 2 customer ids in the space"):
        space.pulled()
    space.put("u2", known=False, vip=True)  # nobody goes on from what nobody was told
    assert space.pulled() == {"u2": {"vip": "true"}}
    space.sandbox.profiles = {}
    space.put("u3", vip=True)
    with space.source().pull(Everything()) as pull:
        assert [row.customer_id for row in pull.customers(["vip"])] == ["u3"]
        assert (pull.identified(space.ids), pull.absence().unread(space.ids)) == ({"u3"}, set())


def test_faults_are_tried_again_and_nobody_is_missed(space: ProfileApiSpace) -> None:
    for number in range(60):
        space.put(f"u{number:02d}", vip=True)
    space.sandbox.faults = Faults.parse("429=0.1,500=0.1,drop=0.1")
    assert space.pulled() == {f"u{number:02d}": {"vip": "true"} for number in range(60)}


def test_when_nothing_gets_through_the_sweep_ends_with_the_reason(space: ProfileApiSpace) -> None:
    space.put("u1", vip=True)
    space.sandbox.faults = Faults.parse("500=1")
    with pytest.raises(SourceError, match=r"no usable answer for 0\.3 s: status 500; what was"):
        space.pulled(patience=0.3)
    with pytest.raises(SourceError, match=r"no usable answer: .*; see whether engage\.profile_api"):
        space.source(url="http://127.0.0.1:9").survey()


def test_a_type_of_ids_that_the_space_does_not_have_ends_the_sweep(space: ProfileApiSpace) -> None:
    for number in range(200):
        space.put(f"u{number}")
        space.sandbox.broken[f"user_id:u{number}"] = 400
    with pytest.raises(SourceError, match=r"refuses every id: status 400: .*; see whether engage"):
        space.pulled()
    assert len(space.sandbox.requests) < 200


def test_ids_of_a_file_are_asked_for_too(space: ProfileApiSpace) -> None:
    file = space.folder / "ids.txt"
    file.write_bytes("\ufeffu1\r\n\n  u2 \nu1\n".encode())
    for customer_id in ("u1", "u2", "u3"):
        space.put(customer_id, known=False, vip=True)
    assert space.pulled(ids_file=str(file)).keys() == {"u1", "u2"}
    file.write_bytes(b"\xff\xfe\xff")
    for path, why in ((file, "it is not text"), (space.folder / "none", "No such file")):
        with pytest.raises(SourceError, match=f"ids_file: .* cannot be read .{why}"):
            space.pulled(ids_file=str(path))


def documented() -> Iterator[tuple[str, Any]]:
    """The answers of Segment's documentation."""
    texts = Path(__file__).with_name("segment_answers.json").read_text(encoding="utf-8")
    yield from json.loads(texts).items()


def test_the_answers_of_segments_documentation_are_read(space: ProfileApiSpace) -> None:
    """Their pages, cursors and values, one after the other as the answers to one profile."""
    answers = dict(documented())
    pages = iter([answers["traits_paged"], answers["traits_verbose"]])
    space.put("u1")
    space.sandbox.scripted = lambda: next(pages)
    keys = ["3_product_views_in_last_60_days", "Campaign Name", "emails_opened_last_30_days"]
    assert space.pulled(keys=keys) == {
        "u1": {keys[0]: "false", keys[1]: "Organic", keys[2]: "33"},
    }
    assert dict(space.sandbox.requests[-1][1])["next"] == "browser"
    assert dict(space.sandbox.requests[-1][1])["limit"] == "10"
    space.sandbox.scripted = lambda: answers["audience_include"]
    assert space.pulled(keys=["high_value_user"]) == {"u1": {"high_value_user": "true"}}


def test_the_errors_of_segments_documentation_are_read(
    space: ProfileApiSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has the first id; of the second one nothing is known."""
    errors, answered = dict(documented())["errors"], space.sandbox._answer
    for customer_id in ("u1", "404", "400"):
        space.put(customer_id, vip=True)

    def answer(request: web.BaseRequest) -> web.Response:
        status = request.path.split("user_id:")[1].partition("/")[0]
        if status not in errors:
            return answered(request)
        return web.json_response(errors[status], status=int(status))

    monkeypatch.setattr(space.sandbox, "_answer", answer)
    with space.source().pull(Everything()) as pull:
        assert [row.customer_id for row in pull.customers(["vip"])] == ["u1"]
        assert pull.absence().unread(["404", "400"]) == {"400"}
    with pytest.raises(SourceError, match=r"'400': status 400: The parameter `collection` has inv"):
        space.pulled(OnlyCustomers(("400",)))
