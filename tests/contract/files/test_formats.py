"""What the files of Segment say, in each form: downloads, exports and logs."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import duckdb
import pytest

from syncer.engage.source import Absence, ChangedSince, Everything
from tests.contract.files.helpers import HOUR, NOW, Shelf, call

try:
    from compression import zstd
except ImportError:
    from backports import zstd  # type: ignore[no-redef]


PAYLOADS = json.loads(
    (Path(__file__).parents[2] / "unit" / "segment_payloads.json").read_text("utf-8")
)

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
