"""What the files of Segment say, in each form, and what a file that is not whole means."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

import duckdb
import pytest

from syncer.engage.files import intake, source
from syncer.engage.files.intake import CHUNK, FileSet, Intake
from syncer.engage.files.source import Files
from syncer.engage.source import Absence, ChangedSince, Everything, Scope
from syncer.errors import ConfigError, SourceError, Stopped, SyncerError
from syncer.progress import LineProgress

try:
    from compression import zstd
except ImportError:
    from backports import zstd  # type: ignore[no-redef]

PAYLOADS = json.loads(
    (Path(__file__).parents[2] / "unit" / "segment_payloads.json").read_text("utf-8")
)
HOUR = 3600 * 1000
#: A moment of the tests, in epoch milliseconds; files are written in the minutes before it.
NOW = 1_795_856_400_000

#: Segment's sample downloads: some quotes in the JSON are typographic, and a row may be short.
LUKE = '"{""anonymous_id"":[""anon_1""], ""email"": [“luke@force.com”, “chosen_one@force.com”]}"'
MASTER = '"{“anonymous_id"":[""anon_2""], ""email"": [“green_master@force.com”]}"'
UNFORMATTED = f"key,external_ids\nsegment_id_1,{LUKE}\nsegment_id_2,{MASTER}\n"
COLUMNS = (
    "key,external_ids,anonymous_id,email,email_1\n"
    f"segment_id_1,{LUKE},anon_1,luke@force.com,chosen_one@force.com\n"
    f"segment_id_2,{MASTER},anon_2,green_master@force.com"
)
ROWS = (
    "key,external_ids,email\n"
    f"segment_id_1,{LUKE},luke@force.com\n"
    f"segment_id_1,{LUKE},chosen_one@force.com\n"
    f"segment_id_2,{MASTER},green_master@force.com\n"
)
EMAILS = {"luke@force.com", "chosen_one@force.com", "green_master@force.com"}


@dataclass
class Shelf:
    """A folder of files, and the stage that is filled from it."""

    folder: Path
    sets: list[FileSet] = field(default_factory=list)
    customer_id: str = "user_id"
    settle: float = 0
    named: tuple[str, ...] = ()
    now: int = NOW

    def put(self, name: str, content: str | bytes, *, ago: float = 60, at: int = NOW) -> Path:
        """Write a file so many minutes before a moment."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        nanoseconds = int((at - ago * 60_000) * 1_000_000)
        os.utime(path, ns=(nanoseconds, nanoseconds))
        return path

    def add(self, pattern: str, kind: Any = "list", key: str | None = None, **more: Any) -> None:
        self.sets.append(FileSet(str(self.folder / pattern), kind, key, **more))

    @property
    def source(self) -> Files:
        stage, progress = self.folder / "stage.db", LineProgress(lambda text: None)
        intake = Intake(
            *(stage, self.sets, self.customer_id, self.named, self.settle, progress),
            lambda: False,
            clock=lambda: self.now,
        )
        return Files(intake, "files")

    def pulled(
        self, keys: Sequence[str] = ("vip", "gold", "total"), scope: Scope | None = None
    ) -> dict[str, dict[str, Any]]:
        """What a pull says of each customer: the value of each key, the newest."""
        with self.source.pull(scope or Everything()) as pull:
            customers = list(pull.customers(keys))
        said: dict[str, dict[str, Any]] = {}
        for row in customers:
            values = zip(json.loads(row.keys), json.loads(row.values), strict=True)
            people = ((key, value) for key, value, _ in json.loads(row.profile))
            said[row.customer_id] = {**dict(values), **dict(people)}
        return said

    def refusal(self) -> str:
        """The one line by which a pull is refused; what was read before is still there."""
        before = self.folder.joinpath("stage.db").exists()
        with pytest.raises(SyncerError) as caught:
            self.pulled()
        assert "\n" not in str(caught.value)
        assert "SELECT" not in str(caught.value)
        assert self.folder.joinpath("stage.db").exists() == before
        return str(caught.value).replace(f"{self.folder}/", "")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def members(*customer_ids: str, key: str = "p") -> str:
    """A download of an audience with these customers."""
    rows = [
        f'{key}-{each},"{{""user_id"":[""{each}""],""email"":[""{each}@x.y""]}}"'
        for each in customer_ids
    ]
    return "\n".join(["key,external_ids", *rows, ""])


# Downloads of Segment


@pytest.mark.parametrize("text", [UNFORMATTED, COLUMNS, ROWS, UNFORMATTED.replace("\n", "\r\n")])
def test_an_audience_is_read_in_each_format(shelf: Shelf, text: str) -> None:
    shelf.put("vip.csv", "\ufeff" + text)
    shelf.add("vip.csv", key="vip")
    shelf.customer_id = "email"
    assert shelf.pulled() == {email: {"vip": "true"} for email in EMAILS}
    with shelf.source.pull(Everything()) as pull:
        assert {row.profile for row in pull.rows_of("vip")} == {"segment_id_1", "segment_id_2"}
    shelf.customer_id = "user_id"  # then nobody of the samples is a customer
    with shelf.source.pull(Everything()) as pull:
        without = pull.without_customer_id(["vip"])
    assert (without.profiles, without.rows) == (2, {"vip": 2})


def test_a_trait_is_read_with_its_values(shelf: Shelf) -> None:
    text = (
        UNFORMATTED.replace("key,", "key,value,").replace("_1,", "_1,34,").replace("_2,", "_2,23,")
    )
    shelf.put("total.csv", text)
    shelf.add("total.csv", key="total")
    shelf.customer_id = "anonymous_id"
    assert shelf.pulled() == {"anon_1": {"total": "34"}, "anon_2": {"total": "23"}}


def test_the_traits_beside_a_membership_are_read(shelf: Shelf) -> None:
    text = (
        'key,external_ids,traits\np1,"{""user_id"":[""u1"",""u2""]}","{""name"":""Zoë"",""n"":1}"\n'
    )
    shelf.put("vip.csv", text)
    shelf.add("vip.csv", key="vip")
    said = {"vip": "true", "n": "1", "name": "Zoë"}
    assert shelf.pulled(["vip", "n"]) == {"u1": said, "u2": said}
    with shelf.source.pull(Everything()) as pull:
        assert pull.absence() == Absence(frozenset({"vip"}), deletions=False)


def test_a_download_of_one_id_type_needs_raw_ids(shelf: Shelf) -> None:
    shelf.put("vip.csv", "user_id\nu1\nu2\n")
    shelf.add("vip.csv", key="vip")
    assert shelf.pulled() == {"u1": {"vip": "true"}, "u2": {"vip": "true"}}
    shelf.put("vip.csv", f"user_id\n{'ab' * 32}\n", ago=5)
    assert "vip.csv, line 2: the ids are hashed (SHA-256)" in shelf.refusal()


# Exports


def test_parquet_in_parts_is_one_list(shelf: Shelf) -> None:
    for part, rows in enumerate([[("u1", True, 1.5)], [("u2", False, None), ("u3", None, 2.0)]]):
        values = ", ".join(
            f"('{name}', {'NULL' if vip is None else vip}, {'NULL' if total is None else total},"
            " TIMESTAMP '2026-01-01 00:00:00')"
            for name, vip, total in rows
        )
        path = shelf.put(f"export/{part}.parquet", "", ago=60 - part)
        with duckdb.connect() as connection:
            connection.execute(
                "COPY (SELECT user_id::BLOB AS user_id, * EXCLUDE user_id FROM (VALUES "
                f"{values}) t(user_id, vip, total, received_at)) TO '{path}' (FORMAT parquet)"
            )
        os.utime(path, (NOW / 1000 - 600 + part,) * 2)
    shelf.add("export/*.parquet", "parts")
    both = {"u1": {"vip": "true", "total": "1.5"}, "u2": {"vip": "false"}, "u3": {"total": "2.0"}}
    assert shelf.pulled() == both
    with shelf.source.pull(Everything()) as pull:
        assert pull.absence().keys == {"vip", "total"}
    (shelf.folder / "export" / "1.parquet").unlink()
    assert "export/1.parquet is gone, and no part is newer than it" in shelf.refusal()


def test_columns_are_keys_and_those_of_segment_are_none(shelf: Shelf) -> None:
    row = '{"user_id": "u1", "received_at": "2026-01-01", "context_ip": "x", "j_o_a_b": "true"}\n'
    shelf.put(
        "export.jsonl",
        row + '{"user_id": "u2", "VIP": true, "tags": ["a"], "name": "Ada", "Big Spender": true, '
        '"orderCount": 3, "LTV?": 5}',
    )
    shelf.add("export.jsonl")
    shelf.named = ("j_o_a__b", "Big Spender", "LTV?")
    keys = ["j_o_a__b", "vip", "tags", "context_ip", "Big Spender", "orderCount", "LTV?"]
    capitals = {"Big Spender": "true", "orderCount": "3", "LTV?": "5"}
    assert shelf.pulled(keys) == {
        "u1": {"j_o_a__b": "true"},
        "u2": {"vip": "true", "tags": '["a"]', "name": "Ada", **capitals},
    }


# Logs


def call(user: str, key: str, value: object, minutes_ago: float, **more: Any) -> str:
    at = NOW - minutes_ago * 60_000
    personas = {"computation_class": "audience", "computation_key": key}
    return json.dumps(
        {"type": "identify", "userId": user, "timestamp": at, "traits": {key: value}}
        | {"context": {"personas": personas}}
        | more
    )


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress, bytes])
def test_of_calls_the_newest_counts_in_whatever_order_they_come(shelf: Shelf, pack: Any) -> None:
    ending = {gzip.compress: ".gz", zstd.compress: ".zst", bytes: ""}[pack]
    lines = [call("u1", "vip", True, 90), call("u2", "vip", True, 80), call("u1", "vip", False, 70)]
    late = [call("u1", "vip", True, 75), call("u2", "vip", False, 60), call("u3", "vip", True, 60)]
    shelf.put(f"logs/a{ending}", pack("\n".join(lines).encode()), ago=50)
    shelf.add("logs/*", "log")
    assert shelf.pulled() == {"u1": {"vip": "false"}, "u2": {"vip": "true"}}
    with shelf.source.pull(Everything()) as pull:
        assert pull.absence() == Absence(frozenset(), deletions=False)
        watermark = pull.watermark()
    assert watermark is not None
    shelf.now += 5 * HOUR
    shelf.put(f"logs/b{ending}", pack("\n".join(late).encode()), ago=10)
    (shelf.folder / f"logs/a{ending}").unlink()  # it was read
    assert shelf.pulled() == {
        "u1": {"vip": "false"},
        "u2": {"vip": "false"},
        "u3": {"vip": "true"},
    }
    assert set(shelf.pulled(scope=ChangedSince("2026-11-28T13:00:00+00:00"))) == {"u2", "u3"}


def test_every_payload_is_read_as_by_the_webhook(shelf: Shelf) -> None:
    names = [name for name in PAYLOADS if name.startswith("engage_")]
    lines = [json.dumps(PAYLOADS[name]) for name in names]
    shelf.put("log.jsonl", "\n".join([*lines, json.dumps(PAYLOADS["spec_page_full"])]))
    shelf.add("log.jsonl", "log")
    keys = ("test_audience", "amazon_ads_audience_6_may_24", "test_key", "seg_audience_name_1")
    assert shelf.pulled(keys) == {
        "900": {"test_audience": "true"},
        "test-kochar-01": {"amazon_ads_audience_6_may_24": "true", "email": "test@twilio.com"},
        "6789013": {"test_key": "false", "email": "martin@martechawesome.biz"},
        "some_user_id": {"seg_audience_name_1": "true", "email": "testemail@gmail.com"},
    }
    # As printed, the documents' samples have `aud_###` for a key, and one a text for a boolean.
    assert [line.partition(": ")[2] for line in shelf.source.survey().advice[1:]] == [
        "3 records are left out: invalid audience membership",
        "2 records are left out: invalid computed trait",
        "1 records are left out: no call of Engage",
    ]


def test_the_documents_samples_with_the_key_of_real_calls(shelf: Shelf) -> None:
    lines = []
    for name, key in (
        ("engage_identify_audience_doc", "first_time_shopper"),
        ("engage_identify_computed_trait_doc", "total_revenue_180_days"),
        ("engage_track_audience_entered_doc", "first_time_shopper"),
        ("engage_track_trait_computed_doc", "total_revenue_180_days"),
    ):
        event = PAYLOADS[name]
        event["context"]["personas"]["computation_key"] = key
        lines.append(json.dumps(event))
    shelf.put("log.jsonl", "\n".join(lines))
    shelf.add("log.jsonl", "log")
    assert shelf.pulled(["first_time_shopper", "total_revenue_180_days"]) == {
        "u123": {"first_time_shopper": "true", "total_revenue_180_days": "450.0"}
    }


def test_changes_of_the_s3_destination_are_a_log(shelf: Shelf) -> None:
    head = '"audience_name","audience_id","audience_action","email","user_id","timestamp"\n'
    rows = [
        '"vip","aud_1","true","a@x.y","u1","2026-11-28T07:00:00Z"',
        '"vip","aud_1","false","a@x.y","u1","2026-11-28T08:00:00Z"',
        '"vip","aud_1","true","b@x.y","u2","2026-11-28T07:00:00Z"',
        '"vip","aud_1","maybe","b@x.y","u3","2026-11-28T07:00:00Z"',
        '"","aud_1","true","b@x.y","u2","2026-11-28T07:00:00Z"',
    ]
    shelf.put("changes.csv", head + "\n".join(rows))
    shelf.add("changes.csv", "log")
    assert shelf.pulled() == {
        "u1": {"vip": "false", "email": "a@x.y"},
        "u2": {"vip": "true", "email": "b@x.y"},
    }
    with shelf.source.pull(Everything()) as pull:
        assert {each.key for each in pull.observed()} == {"vip", "email"}
    shelf.sets.clear()
    shelf.add("changes.csv", key="vip")
    assert 'write kind = "log"' in shelf.refusal()


# Lists that follow each other


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


# What is not whole is not read


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


LISTED = b'{"key": "p1", "external_ids": {"user_id": ["u1"]}}\n'
VALUED = b'{"key": "p2", "external_ids": {"user_id": ["u2"]}, "value": 7}\n'
BAD = [
    ("vip.csv", cut(members("u1", "u2").encode()), "this is not CSV"),
    ("vip.csv.gz", cut(gzip.compress(members(*map(str, range(999))).encode())), "is cut off"),
    ("vip.csv.zst", cut(zstd.compress(members(*map(str, range(999))).encode())), "is cut off"),
    ("vip.csv.gz", members("u1").encode(), "cannot be read: Not a gzipped file"),
    ("vip.csv", b"", "is empty: a list without members still has its line of columns"),
    ("vip.jsonl", b"", "is empty, so it is no list"),
    ("vip.csv", b"key,external_ids\np1,", "line 2: it has no external_ids"),
    ("vip.csv", b"key,external_ids\np1,{x\n", "line 2: external_ids is no JSON object"),
    ("vip.csv", b"key,external_ids\np1,{},x\n", "line 2: it has 3 cells and the file 2 columns"),
    ("vip.csv", b"key,external_ids\n,{}\n", "line 2: it has no key of a profile"),
    ("vip.csv", b"key,external_ids\np1,\xff\n", "this is not text in UTF-8"),
    ("vip.csv", b"a,b\n1,2\n", "has the columns a, b, which say neither who nor what"),
    ("vip.csv", b"user_id,user_id\n1,2\n", "does not name the columns"),
    ("vip.csv", b"user_id\nu1\nu", "is cut off: its last line has no line break"),
    ("vip.csv", b"user_id,vip\nu1,true\nu2,tr", "is cut off: its last line has no line break"),
    ("vip.csv", b"user_id,vip\nu1,true\nu2\n", "line 3: it has 1 cells and the file 2 columns"),
    ("vip.jsonl", b'{"user_id": "u1", "vip": true}\n{"user_id": "u', "is cut off: its last line"),
    ("vip.jsonl", b'{"user_id": "u1"}\n[]\n{"user_id": "u2"}\n', "line 2: not a JSON object"),
    ("vip.jsonl", call("u1", "vip", True, 1).encode(), 'write kind = "log"'),
    ("vip.jsonl", b'{"key": "p", "external_ids": ["u1"]}\n', "line 1: external_ids is no JSON obj"),
    ("vip.jsonl", LISTED + b'{"key": "p2"}\n', "line 2, has the columns key, which say neither"),
    ("vip.jsonl", b'{"key": "p2"}\n' + LISTED, "has the columns key, which say neither who nor"),
    ("vip.jsonl", LISTED + b'{"user_id": "u2"}\n', "those of ids, and the records before it are"),
    ("vip.jsonl", LISTED + VALUED, "those of profiles with a value, and the records before it"),
    ("vip.jsonl", VALUED + LISTED, "line 2: its columns key, external_ids are those of profiles,"),
    ("vip.csv", b"email\na@b.c\n", "has the columns email, which say neither who nor what"),
    ("vip.parquet", b"PAR1 and no more", "cannot be read: "),
]


@pytest.mark.parametrize(("name", "content", "line"), BAD)
def test_a_file_that_is_not_whole_ends_the_run_and_nothing_is_lost(
    shelf: Shelf, name: str, content: bytes, line: str
) -> None:
    shelf.put("vip.csv", members("u1", "u2"), ago=90)
    shelf.add("vip.*", key="vip")
    assert set(shelf.pulled()) == {"u1", "u2"}
    path = shelf.put(name, content, ago=30)
    assert line in (refusal := shelf.refusal())
    assert name in refusal
    path.unlink()
    shelf.put("vip.csv", members("u1", "u2", "u3"), ago=20)
    assert set(shelf.pulled()) == {"u1", "u2", "u3"}


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

    one = {"user_id": "u1", "vip": "true"}
    shelf.add(f"*.{form}")
    two, three = ({"user_id": name, "gold": "true"} for name in ("u2", "u3"))
    shelf.put(f"1.{form}", export(one, two, three), ago=90)
    everybody = {"u1": {"vip": "true"}, "u2": {"gold": "true"}, "u3": {"gold": "true"}}
    assert shelf.pulled() == everybody
    shelf.put(f"2.{form}", export(one, {"user_id": "u2"}, three), ago=80)
    assert shelf.pulled() == {**everybody, "u2": {"gold": None}}
    shelf.put(f"3.{form}", export(one, {"user_id": "u2"}, {"user_id": "u3"}), ago=70)
    assert shelf.pulled() == {"u1": {"vip": "true"}}
    with shelf.source.pull(Everything()) as pull:
        assert pull.absence().keys == {"vip", "gold"}


@pytest.mark.parametrize("name", ["vip.csv", "vip.csv.gz", "vip.csv.zst"])
def test_a_storage_that_sends_less_than_it_says_is_told(
    shelf: Shelf, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came would look whole: it ends at the end of a line."""
    pack = {"gz": gzip.compress, "zst": zstd.compress}.get(name[-3:].lstrip("."), bytes)
    sent = pack(members("u1").encode())
    shelf.put(name, sent + pack(members("u2").encode()))
    shelf.add(name, key="vip")
    storage = shelf.sets[0].storage
    monkeypatch.setattr(storage.filesystem, "open", lambda path, mode: io.BytesIO(sent))
    assert f"{name}: {len(sent)} of {2 * len(sent)} bytes came; nothing of it" in shelf.refusal()


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


def test_a_stage_that_cannot_be_read_is_filled_anew(shelf: Shelf) -> None:
    shelf.put("vip.csv", members("u1"))
    shelf.add("vip.csv", key="vip")
    stage = shelf.folder / "stage.db"
    for content in (b"", b"no database" * 1000):
        stage.write_bytes(content)
        assert shelf.pulled() == {"u1": {"vip": "true"}}
        assert stage.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_being_written_waits(shelf: Shelf) -> None:
    shelf.settle = 120
    shelf.add("vip/*.csv", key="vip")
    shelf.put("vip/1.csv", members("u1"), ago=1)
    assert "vip/1.csv was written less than 120 s ago" in shelf.refusal()
    shelf.now += HOUR
    assert set(shelf.pulled()) == {"u1"}
    shelf.put("vip/2.csv", members("u2"), ago=-59)
    assert set(shelf.pulled()) == {"u1"}  # the list before it counts
    shelf.now += HOUR
    assert shelf.pulled() == {"u1": {"vip": None}, "u2": {"vip": "true"}}


def test_a_file_that_is_written_while_it_is_read_is_not_taken(shelf: Shelf) -> None:
    many = [f"u{number}" for number in range(CHUNK + 1)]
    shelf.put("vip.csv", members(*many))
    shelf.add("vip.csv", key="vip")
    intake = shelf.source.intake

    def write() -> bool:
        shelf.put("vip.csv", members("u1"), ago=30)
        return False

    with pytest.raises(SourceError, match=r"vip\.csv was written while it was read"):
        replace(intake, stop=write).bring_up_to_date()
    shelf.put("vip.csv", members(*many), ago=20)
    with pytest.raises(Stopped):
        replace(intake, stop=lambda: True).bring_up_to_date()
    assert not (shelf.folder / "stage.db").exists()


def test_two_processes_that_read_at_the_same_time_lose_nothing(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage of the slower one would take the place of what only the quicker one read."""
    monkeypatch.setattr(intake, "CHUNK", 1)
    monkeypatch.setattr(source, "LOOK", 0.01)
    shelf.add("vip.csv", key="vip")
    shelf.add("logs/*", "log")
    shelf.put("vip.csv", members("u1", "u2"))
    shelf.put("logs/a", call("u3", "vip", True, 40), ago=30)
    reads, goes_on, waits = Event(), Event(), Event()

    def slowly() -> None:
        reads.set()
        assert goes_on.wait(60)

    def customers(**how: Any) -> set[str]:
        files = replace(shelf.source, intake=replace(shelf.source.intake, **how))
        with files.pull(Everything()) as pull:
            assert pull.watermark() == "2026-11-28T08:00:00.000+00:00"
            return {row.customer_id for row in pull.customers(["vip"])}

    said: list[str] = []
    with ThreadPoolExecutor() as pool:
        slower = pool.submit(customers, answered=slowly)
        assert reads.wait(60)
        log = shelf.put("logs/b", call("u4", "vip", True, 20), ago=10)
        progress = LineProgress(lambda text: (said.append(text), waits.set())[0])
        quicker = pool.submit(customers, progress=progress)
        assert waits.wait(60)
        with pytest.raises(Stopped):
            customers(stop=lambda: True)
        goes_on.set()
        assert slower.result() == {"u1", "u2", "u3"}
        assert quicker.result() == {"u1", "u2", "u3", "u4"}
    assert said[0] == "another process reads the files: waiting for it"
    log.unlink()
    assert set(shelf.pulled()) == {"u1", "u2", "u3", "u4"}


def test_a_bad_line_of_a_log_is_counted_and_a_log_that_is_cut_off_is_not_read(shelf: Shelf) -> None:
    shelf.add("logs/*", "log")
    shelf.put("logs/empty", "")  # a mark of a folder
    shelf.put("logs/a", f"{call('u1', 'vip', True, 90)}\nno JSON\n{call('u2', 'vip', 1, 90)}\n")
    assert shelf.pulled() == {"u1": {"vip": "true"}}
    assert {line.partition(": ")[2] for line in shelf.source.survey().advice[1:]} == {
        "1 records are left out: not a JSON object",
        "1 records are left out: invalid audience membership",
    }
    shelf.put("logs/b", call("u1", "vip", False, 30)[:-3], ago=10)
    assert "logs/b is cut off" in shelf.refusal()


def test_each_record_of_a_log_is_what_its_own_columns_say(shelf: Shelf) -> None:
    group, typeless = '{"type": "group", "groupId": "g1"}', call("u1", "vip", True, 60)
    typeless = typeless.replace('"type": "identify", ', "")
    change = '{"audience_name": "vip", "audience_action": true, "user_id": "u3"}'
    shelf.put(
        "log.jsonl", "\n".join([group, call("u2", "vip", True, 60), typeless, change, "{}\n"])
    )
    shelf.add("log.jsonl", "log")
    assert shelf.pulled() == {"u2": {"vip": "true"}, "u3": {"vip": "true"}}
    assert "3 records are left out: neither a call nor a change" in shelf.source.survey().advice[1]


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


def test_a_storage_without_its_driver_names_the_extra(shelf: Shelf) -> None:
    shelf.sets.append(FileSet("gs://bucket/vip.csv", "list", "vip"))
    with pytest.raises(ConfigError, match=r"pip install 'engage-amberflo-sync\[gcs\]'"):
        shelf.pulled()
    shelf.sets[:] = [FileSet("xyz://bucket/vip.csv", "list", "vip")]
    with pytest.raises(ConfigError, match="Protocol not known: xyz"):
        shelf.pulled()
