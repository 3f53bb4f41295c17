"""Lists that follow each other: who left, which list counts, and what is read again."""

from __future__ import annotations

import json

import pytest

from syncer.engage.files.intake import FileSet
from syncer.engage.source import ChangedSince, Everything
from syncer.errors import ConfigError, SyncerError
from tests.contract.files.helpers import HOUR, NOW, Shelf, call, members


def test_who_is_not_in_the_next_list_has_left(shelf: Shelf) -> None:
    shelf.put("vip/1.csv", members("u1", "u2", "u3"), ago=50)
    shelf.add("vip/*.csv", key="vip")
    assert set(shelf.pulled()) == {"u1", "u2", "u3"}
    shelf.now += 9 * HOUR
    shelf.put("vip/2.csv", members("u2", "u4"), ago=10)
    assert shelf.pulled() == {
        "u1": {"vip": None},
        "u2": {"vip": "true"},
        "u3": {"vip": None},
        "u4": {"vip": "true"},
    }
    # An incremental run sees who left and who came, and passes by who stays.
    assert set(shelf.pulled(scope=ChangedSince("2026-11-28T16:00:00+00:00"))) == {"u1", "u3", "u4"}


def test_of_a_list_of_nobody_no_row_is_left(shelf: Shelf) -> None:
    """Like an audience that vanished: the guard holds that, however small it was."""
    shelf.put("vip/1.csv", members("u1", "u2"), ago=50)
    shelf.add("vip/*.csv", key="vip")
    shelf.pulled()
    shelf.put("vip/2.csv", "key,external_ids\n", ago=10)
    assert shelf.pulled() == {}
    with shelf.source.pull(Everything()) as pull:
        assert pull.observed() == []
        assert pull.absence().ends("vip")
    shelf.put("vip/3.csv", members("u1"), ago=5)
    assert shelf.pulled() == {"u1": {"vip": "true"}}


def test_a_profile_that_went_into_another_one_is_no_exit(shelf: Shelf) -> None:
    shelf.put("vip/1.csv", members("u1", key="old"), ago=50)
    shelf.add("vip/*.csv", key="vip")
    assert shelf.pulled() == {"u1": {"vip": "true"}}
    shelf.put("vip/2.csv", members("u1", key="new"), ago=10)
    assert shelf.pulled() == {"u1": {"vip": "true"}}


def test_an_id_that_a_profile_lost_is_its_customer_no_more(shelf: Shelf) -> None:
    both = members("u1").replace('[""u1""]', '[""u1"",""u2""]')
    shelf.put("vip/1.csv", both, ago=50)
    shelf.add("vip/*.csv", key="vip")
    assert set(shelf.pulled()) == {"u1", "u2"}
    shelf.put("vip/2.csv", members("u1"), ago=10)
    assert set(shelf.pulled()) == {"u1"}


def test_a_call_that_is_newer_than_the_list_counts(shelf: Shelf) -> None:
    shelf.put("vip.csv", members("u1", "u2"), ago=50)
    shelf.put("log.jsonl", call("u2", "vip", False, 40) + "\n" + call("u3", "vip", True, 45), ago=5)
    shelf.add("log.jsonl", "log")
    shelf.add("vip.csv", key="vip")
    assert shelf.pulled() == {
        "u1": {"vip": "true"},
        "u2": {"vip": "false"},
        "u3": {"vip": "true"},
    }
    with shelf.source.pull(Everything()) as pull:  # what the list knows of calls
        assert pull.watermark() == "2026-11-28T08:10:00.000+00:00"


def test_a_list_that_vanished_is_told_and_an_older_one_does_not_take_its_place(
    shelf: Shelf,
) -> None:
    shelf.add("vip/*.csv", key="vip")
    assert shelf.refusal() == (
        "vip/*.csv: no file matches; nothing was changed: put one there, or take the set out of "
        "engage.files.sets"
    )
    shelf.put("vip/1.csv", members("u1"), ago=50)
    newer = shelf.put("vip/2.csv", members("u1", "u2"), ago=10)
    assert set(shelf.pulled()) == {"u1", "u2"}
    newer.unlink()
    assert "vip/2.csv is gone or was replaced by an older file" in shelf.refusal()
    (shelf.folder / "vip" / "1.csv").unlink()
    assert "vip/*.csv: the files are gone; nothing was changed" in shelf.refusal()
    shelf.put("vip/2.csv", members("u3"), ago=5)
    assert shelf.pulled() == {"u1": {"vip": None}, "u2": {"vip": None}, "u3": {"vip": "true"}}


def test_lists_of_the_same_second_follow_each_other_by_their_times(shelf: Shelf) -> None:
    """A time may be a whole second on a storage that has milliseconds, and is no later for it."""
    shelf.add("vip/*.csv", key="vip")
    shelf.put("vip/2.csv", members("u1"), at=NOW - 1)
    older = shelf.put("vip/9.csv", members("u2"), at=NOW - 1000)
    assert set(shelf.pulled()) == {"u1"}
    shelf.put("vip/9.csv", members("u3"), at=NOW - 1000 + 998)
    assert set(shelf.pulled()) == {"u1"}
    (shelf.folder / "vip" / "2.csv").unlink()
    for ago, name in ((1000, "9"), (2, "9"), (1, "1")):
        older.unlink()
        older = shelf.put(f"vip/{name}.csv", members("u3"), at=NOW - ago)
        for settings in ((), ("gold",)):  # others read all anew
            shelf.named = settings
            assert "vip/2.csv is gone or was replaced by an older file" in shelf.refusal()
    older.unlink()
    for name in ("2", "3"):  # written over it, and beside it: as on a storage of whole seconds
        shelf.put(f"vip/{name}.csv", members(f"u{name}"), at=NOW - 1)
        assert shelf.pulled()[f"u{name}"] == {"vip": "true"}
    assert shelf.pulled() == {"u2": {"vip": None}, "u3": {"vip": "true"}}
    shelf.named = ()
    assert shelf.pulled() == {"u3": {"vip": "true"}}


def test_a_list_of_a_time_to_come_is_told(shelf: Shelf) -> None:
    """It would never be old enough to be read, and the list before it would count for ever."""
    shelf.add("vip/*.csv", key="vip")
    shelf.put("vip/1.csv", members("u1", "u2"))
    assert set(shelf.pulled()) == {"u1", "u2"}
    shelf.put("vip/2.csv", members("u1"), ago=-4)  # as clocks differ
    assert set(shelf.pulled()) == {"u1", "u2"}
    shelf.put("vip/2.csv", members("u1"), ago=-10)
    assert "vip/2.csv is of 2026-11-28T09:10:00.000Z, a time to come" in shelf.refusal()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_column_that_is_gone_is_an_audience_without_rows(shelf: Shelf, form: str) -> None:
    """So the guard holds it. Which columns records of JSON have, each of them says anew."""

    def export(*users: dict[str, str]) -> str:
        if form == "jsonl":
            return "".join(json.dumps(user) + "\n" for user in users)
        columns = list(dict.fromkeys(name for user in users for name in user))
        lines = [",".join(user.get(name, "") for name in columns) for user in users]
        return "\n".join([",".join(columns), *lines, ""])

    first = {"user_id": "u1", "vip": "true"}
    shelf.add(f"*.{form}")
    second, third = ({"user_id": name, "gold": "true"} for name in ("u2", "u3"))
    shelf.put(f"1.{form}", export(first, second, third), ago=90)
    everybody = {"u1": {"vip": "true"}, "u2": {"gold": "true"}, "u3": {"gold": "true"}}
    assert shelf.pulled() == everybody
    shelf.put(f"2.{form}", export(first, {"user_id": "u2"}, third), ago=80)
    assert shelf.pulled() == {**everybody, "u2": {"gold": None}}
    shelf.put(f"3.{form}", export(first, {"user_id": "u2"}, {"user_id": "u3"}), ago=70)
    assert shelf.pulled() == {"u1": {"vip": "true"}}
    with shelf.source.pull(Everything()) as pull:
        assert pull.absence().keys == {"vip", "gold"}


def test_two_lists_of_one_key_are_refused(shelf: Shelf) -> None:
    """Each would end what only the other has. What is not ours may be in both."""
    for name, user in (("a", "u1"), ("b", "u2")):
        shelf.put(f"{name}.csv", f"user_id,vip,plan\n{user},true,x\n")
        shelf.add(f"{name}.csv")
    with pytest.raises(SyncerError) as caught:
        shelf.pulled()
    line = str(caught.value).replace(f"{shelf.folder}/", "")
    assert line.startswith("a.csv and b.csv are both lists of 'vip', and each would end what only")
    shelf.pulled(["plan_of_others"])


def test_a_user_of_an_export_may_have_nothing(shelf: Shelf) -> None:
    """Tools leave out what has no value."""
    users = ['{"user_id": "u1"}', '{"user_id": "u2", "vip": true}', '{"user_id": "u3"}', ""]
    shelf.put("users.jsonl", "\n".join(users))
    shelf.add("users.jsonl")
    assert shelf.pulled() == {"u2": {"vip": "true"}}


def test_other_settings_read_all_anew(shelf: Shelf) -> None:
    shelf.put("vip.csv", members("u1"))
    shelf.add("vip.csv", key="vip")
    assert shelf.pulled() == {"u1": {"vip": "true"}}
    shelf.sets.clear()
    shelf.add("vip.csv", key="gold")
    assert shelf.pulled() == {"u1": {"gold": "true"}}


def test_what_logs_told_stays_when_they_are_gone_and_the_settings_are_others(shelf: Shelf) -> None:
    """A list that is older than the log would end what it began."""
    shelf.put("vip.csv", members("u1", "u2"), ago=90)
    shelf.put("logs/a", f"{call('u9', 'vip', True, 60)}\n{call('u1', 'vip', False, 60)}\n", ago=50)
    shelf.put("logs/b", call("u8", "vip", True, 40), ago=30)
    shelf.add("vip.csv", key="vip")
    shelf.add("logs/*", "log")
    told = {
        **{"u1": {"vip": "false"}, "u2": {"vip": "true"}},
        **{"u8": {"vip": "true"}, "u9": {"vip": "true"}},
    }
    assert shelf.pulled() == told
    (shelf.folder / "logs" / "a").unlink()
    shelf.named = ("gold",)
    assert shelf.pulled() == told
    shelf.put("gold.csv", members("u2"))
    shelf.add("gold.csv", key="gold")
    assert shelf.pulled() == {**told, "u2": {"vip": "true", "gold": "true"}}
    shelf.put("vip.csv", members("u1"), ago=95)  # other settings make no older list the newest
    shelf.named = ()
    assert "vip.csv is gone or was replaced by an older file" in shelf.refusal()
    shelf.sets.pop(0)
    assert shelf.pulled() == {
        **{"u1": {"vip": "false"}, "u2": {"gold": "true"}},
        **{"u8": {"vip": "true"}, "u9": {"vip": "true"}},
    }
    shelf.sets[:] = [FileSet(str(shelf.folder / "gold.csv"), "list", "gold")]
    assert shelf.pulled() == {"u2": {"gold": "true"}}  # nothing of a log that is no set any more


def test_a_list_needs_the_key_that_it_is_a_list_of(shelf: Shelf) -> None:
    shelf.put("vip.csv", members("u1"))
    shelf.add("vip.csv")
    assert "does not say of which audience or trait" in shelf.refusal()
    shelf.sets.clear()
    shelf.put("list.txt", members("u1"))
    shelf.add("list.txt", key="vip")
    with pytest.raises(ConfigError, match='write format = "csv", "jsonl" or "parquet"'):
        shelf.pulled()


def test_what_was_read_is_not_read_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shelf.put("vip.csv", members("u1"))
    shelf.add("vip.csv", key="vip")
    shelf.pulled()
    stage = (shelf.folder / "stage.db").stat().st_ino
    path.chmod(0)
    assert set(shelf.pulled()) == {"u1"}
    assert (shelf.folder / "stage.db").stat().st_ino == stage
