"""Answers of the audit as rows."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.installation import Installation


def rows_of(installation: Installation, *arguments: str) -> list[dict[str, str]]:
    """The rows of a CSV answer."""
    return list(csv.DictReader(io.StringIO(installation.run(*arguments, "--csv").stdout)))


def check(checker: Path, folder: Path) -> tuple[int, str]:
    """Exit status and last line of the docs' program."""
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-W", "ignore::ResourceWarning", checker, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1]


def state(installation: Installation) -> sqlite3.Connection:
    return sqlite3.connect(installation.folder / "syncer.db", isolation_level=None)


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text("utf-8"))
    change(manifest)
    file.write_text(json.dumps(manifest), "utf-8")


def agree(folder: Path) -> None:
    """Make the manifest agree with the files again."""

    def put(manifest: dict[str, Any]) -> None:
        for name in manifest["files"]:
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            manifest["files"][name] = digest

    edit_manifest(folder, put)
