"""Files in S3, by the real protocol: moto's server on loopback."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pytest
from moto.server import ThreadedMotoServer

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
    found = pulled(source(tmp_path, endpoint, f"{BUCKET}/export/*.parquet", "parts"))
    assert len(found) == 5000
    assert (found["u4998"], found["u4999"]) == ('["true"]', '["false"]')


def test_a_bucket_that_cannot_be_read_is_one_line(s3: Any, endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^s3://nobodys/x\.csv.*nothing was changed") as caught:
        pulled(source(tmp_path, endpoint, "nobodys/x.csv", "list", "vip"))
    assert "\n" not in str(caught.value)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(SourceError) as caught:
        pulled(source(tmp_path, f"http://127.0.0.1:{port}", f"{BUCKET}/x.csv", "list", "vip"))
    assert "cannot be read" in str(caught.value)
    assert "\n" not in str(caught.value)
