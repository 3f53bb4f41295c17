"""What a file that is not whole means, and a storage that gives less than it says."""

from __future__ import annotations

import gzip
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

import pytest

from syncer.engage.files import intake, source
from syncer.engage.files.intake import CHUNK, FileSet
from syncer.engage.source import Everything
from syncer.errors import ConfigError, SourceError, Stopped
from syncer.progress import LineProgress
from tests.contract.files.helpers import HOUR, Shelf, call, members

try:
    from compression import zstd
except ImportError:
    from backports import zstd  # type: ignore[no-redef]


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


def test_a_storage_without_its_driver_names_the_extra(shelf: Shelf) -> None:
    shelf.sets.append(FileSet("gs://bucket/vip.csv", "list", "vip"))
    with pytest.raises(ConfigError, match=r"pip install 'engage-amberflo-sync\[gcs\]'"):
        shelf.pulled()
    shelf.sets[:] = [FileSet("xyz://bucket/vip.csv", "list", "vip")]
    with pytest.raises(ConfigError, match="Protocol not known: xyz"):
        shelf.pulled()
