"""Files in S3, by the real protocol: moto's server on loopback."""

from __future__ import annotations

import gzip
import re
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import boto3
import duckdb
import pytest
from moto.server import ThreadedMotoServer

from syncer.engage.files import storage
from syncer.engage.files.intake import FileSet, Intake, Kind
from syncer.engage.files.source import Files
from syncer.engage.source import Everything
from syncer.errors import SourceError
from syncer.progress import LineProgress

BUCKET = "exports"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client, and an empty bucket; the log-in is in the environment, as AWS' tools have it."""
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=BUCKET)
    yield client
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    client.delete_bucket(Bucket=BUCKET)
    client.close()


def members(*customer_ids: str) -> bytes:
    rows = [f'p-{each},"{{""user_id"":[""{each}""]}}"' for each in customer_ids]
    return "\n".join(["key,external_ids", *rows, ""]).encode()


def source(folder: Path, endpoint: str, path: str, kind: Kind, key: str | None = None) -> Files:
    options = {"endpoint_url": endpoint}
    sets = [FileSet(f"s3://{path}", kind, key, options=options)]
    progress = LineProgress(lambda text: None)
    return Files(
        Intake(folder / "stage.db", sets, "user_id", (), 0, progress, lambda: False), "files"
    )


def pulled(files: Files) -> dict[str, str]:
    with files.pull(Everything()) as pull:
        return {row.customer_id: row.values for row in pull.customers(["vip"])}


def test_a_list_is_followed_by_the_next(s3: Any, endpoint: str, tmp_path: Path) -> None:
    files = source(tmp_path, endpoint, f"{BUCKET}/vip/*.csv.gz", "list", "vip")
    with pytest.raises(SourceError, match=r"exports/vip/\*\.csv\.gz: no file matches"):
        pulled(files)
    s3.put_object(Bucket=BUCKET, Key="vip/1.csv.gz", Body=gzip.compress(members("u1", "u2")))
    assert pulled(files) == {"u1": '["true"]', "u2": '["true"]'}
    # The times of S3 are whole seconds, and a list of the same second may follow.
    whole = gzip.compress(members("u1"))
    s3.put_object(Bucket=BUCKET, Key="vip/2.csv.gz", Body=whole[:-9])
    with pytest.raises(SourceError, match=r"vip/2\.csv\.gz is cut off"):
        pulled(files)
    s3.put_object(Bucket=BUCKET, Key="vip/2.csv.gz", Body=whole)
    assert pulled(files) == {"u1": '["true"]', "u2": "[null]"}
    s3.delete_object(Bucket=BUCKET, Key="vip/2.csv.gz")
    with pytest.raises(SourceError, match=r"vip/2\.csv\.gz is gone"):
        pulled(files)


def test_parquet_is_read_where_it_is(s3: Any, endpoint: str, tmp_path: Path) -> None:
    local = tmp_path / "export.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT 'u' || range AS user_id, range % 2 = 0 AS vip FROM range(5000)) "
            f"TO '{local}' (FORMAT parquet)"
        )
    s3.upload_file(str(local), BUCKET, "export/part-0.parquet")
    customers = pulled(source(tmp_path, endpoint, f"{BUCKET}/export/*.parquet", "parts"))
    assert len(customers) == 5000
    assert (customers["u4998"], customers["u4999"]) == ('["true"]', '["false"]')


LISTING = """<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>exports</Name>
<KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated><Contents>
<Key>%s</Key><LastModified>2026-03-04T10:00:00.123Z</LastModified><ETag>"e"</ETag>
<Size>%d</Size></Contents></ListBucketResult>"""


class Bucket(BaseHTTPRequestHandler):
    """One list in a bucket whose storage has times as MinIO does, and does what `mode` says."""

    protocol_version = "HTTP/1.1"
    mode, key, content = "", "", b""
    requests = 0
    goes_on = Event()

    def do_GET(self) -> None:
        Bucket.requests += 1
        listing = "list-type" in self.path
        of_file = self.command == "GET" and not listing
        if self.mode == "hangs" or (self.mode == "hangs later" and of_file):
            self.goes_on.wait(60)
            self.close_connection = True
        elif self.mode in ("AccessDenied", "InternalError") or (self.mode == "Denied" and of_file):
            code = "InternalError" if self.mode == "InternalError" else "AccessDenied"
            error = f"<Error><Code>{code}</Code><Message>No.</Message></Error>"
            self._answer(403 if code == "AccessDenied" else 500, error.encode())
        elif listing:
            self._answer(200, (LISTING % (self.key, len(self.content))).encode())
        elif of_file:
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            part = self.content[int(first) : int(last) + 1]
            self._answer(206, part, sent=20 if self.mode == "stalls" else None)
        else:
            self._answer(200, self.content)

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Wed, 04 Mar 2026 10:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:sent])
            if sent is not None:
                self.goes_on.wait(60)
                self.close_connection = True

    def log_message(self, *_: object) -> None: ...


def test_a_storage_that_refuses_fails_or_hangs_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("ACCESS_KEY_ID", "AKIA-key"), ("SECRET_ACCESS_KEY", "s3cr3t")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(storage, "_ATTEMPTS", 1)  # the pauses between them grow
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    options = {
        "endpoint_url": f"http://127.0.0.1:{server.server_port}",
        "config_kwargs": {"read_timeout": 0.1},
        "skip_instance_cache": True,
    }
    refused, fails = "let the login list and read the files there", "see whether the storage works"
    table = tmp_path / "table.parquet"
    with duckdb.connect() as connection:
        rows = "SELECT 'u' || range AS user_id, true AS vip FROM range(1, 3)"
        connection.execute(f"COPY ({rows}) TO '{table}' (FORMAT parquet)")
    stories: dict[str, dict[str, str]] = {
        "vip/*.csv": {
            "AccessDenied": refused,
            "InternalError": fails,
            "hangs": fails,
            "hangs later": fails,
            "stalls": fails,
        },
        "vip/1.csv": {"AccessDenied": refused},
        "vip/*.parquet": {"Denied": refused, "hangs later": fails},
    }
    progress = LineProgress(lambda text: None)
    try:
        for number, (path, modes) in enumerate(stories.items()):
            is_table = path.endswith("parquet")
            monkeypatch.setattr(Bucket, "key", path.replace("*", "1"))
            content = table.read_bytes() if is_table else members("u1", "u2")
            monkeypatch.setattr(Bucket, "content", content)
            key = None if is_table else "vip"
            files = FileSet(f"s3://{BUCKET}/{path}", "list", key, options=options)
            stage = tmp_path / f"{number}.db"
            intake = Intake(stage, [files], "user_id", (), 0, progress, lambda: False)
            for mode, advice in modes.items():
                monkeypatch.setattr(Bucket, "mode", mode)
                monkeypatch.setattr(Bucket, "requests", 0)
                with pytest.raises(SourceError) as caught:
                    pulled(Files(intake, "files"))
                line = str(caught.value)
                assert re.match(rf"(s3://)?{BUCKET}/vip/", line), line
                assert f"; nothing was changed: {advice}" in line
                assert not re.search("\n|AKIA|s3cr3t|Traceback", line)
                assert Bucket.requests <= 2 + 2 * 2, (path, mode)
                assert not stage.exists()
            monkeypatch.setattr(Bucket, "mode", "")
            assert pulled(Files(intake, "files")) == {"u1": '["true"]', "u2": '["true"]'}
    finally:
        Bucket.goes_on.set()
        server.shutdown()
        server.server_close()


def test_a_bucket_that_cannot_be_read_is_one_line(
    s3: Any, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_ATTEMPTS", 1)  # the pauses between them grow
    with pytest.raises(SourceError, match=r"^s3://nobodys/x\.csv.*nothing was changed") as caught:
        pulled(source(tmp_path, endpoint, "nobodys/x.csv", "list", "vip"))
    assert "\n" not in str(caught.value)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(SourceError) as caught:
        pulled(source(tmp_path, f"http://127.0.0.1:{port}", f"{BUCKET}/x.csv", "list", "vip"))
    assert "cannot be read" in str(caught.value)
    assert "\n" not in str(caught.value)
