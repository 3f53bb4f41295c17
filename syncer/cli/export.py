"""Export the history with its seals, for others to verify.

The export is a folder with JSON Lines and a manifest; docs/audit.md has a program that verifies
them. Its times are epoch milliseconds and its hashes hex, as in the hashed bytes.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from state.db.files import open_private
from state.history.proof import Leaf, Proof
from state.history.seal import CHANGES, LEAF, LINK, Link
from syncer.errors import NotFound, SyncerError

#: The files of the changes, of what the last compaction kept of older ones, and of the seals.
CHANGES_FILE, KEPT_FILE, MANIFEST = "changes.jsonl", "kept.jsonl", "manifest.json"
_COLUMNS = (*LEAF, "delivered_at", "leaf")
_KEY = LEAF.index("key")


class Export:
    """Writes what a proof visits (`state.history.proof.Witness`) into an empty folder.

    With `since` it begins at the first seal of that run. With `key` changes of other keys are
    exported as hashes only.
    """

    def __init__(self, folder: Path, since: int | None = None, key: str | None = None) -> None:
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if any(folder.iterdir()):
                raise SyncerError(f"the folder {folder} is not empty; name a new one")
            self._files = {name: _File(folder / name) for name in (CHANGES_FILE, KEPT_FILE)}
        except OSError as error:
            raise SyncerError(f"cannot write to the folder {folder}: {error.strerror}") from None
        self.folder, self.since, self.key = folder, since, key
        self._into: _File | None = None
        self._seals: list[dict[str, Any]] = []
        self._erased = self._hidden = 0

    def seal(self, link: Link, *, rows: bool) -> None:
        if self.since is not None and not self._seals:
            if link.run is None or link.run < self.since:
                self._into = None
                return
            if not rows:
                raise NotFound(
                    f"the changes of run {self.since} are compacted and cannot be exported alone; "
                    "leave --since out, or name a later run"
                )
        name = CHANGES_FILE if link.kind == CHANGES else KEPT_FILE
        if name == KEPT_FILE and self.since is not None:
            rows = False
        self._into = self._files[name] if rows else None
        document = {column: getattr(link, column) for column in (*LINK, "hash")}
        self._seals.append(document | {"file": name if rows else None})

    def change(self, change: Leaf) -> None:
        if self._into is None:
            return
        number, leaf, row = change
        if row is None:
            self._erased += 1
            line: dict[str, Any] = {"id": number, "leaf": leaf.hex(), "erased": True}
        elif self.key is not None and row[_KEY] != self.key:
            self._hidden += 1
            line = {"id": number, "leaf": leaf.hex()}
        else:
            line = dict(zip(_COLUMNS, (*row, leaf.hex()), strict=True))
        self._into.write(orjson.dumps(line) + b"\n")

    def finish(self, proof: Proof, *, tool: str, at: str) -> dict[str, Any]:
        """Write the manifest; return it without the seals.

        It comes last: a folder without it is not an export. If the proof failed, or there is no
        such run, the files are deleted.
        """
        if proof.broken or not self._seals:
            self.discard()
            if not proof.broken:
                raise NotFound(
                    "nothing is sealed yet: `syncer sync` seals"
                    if self.since is None
                    else f"no run since {self.since} is sealed; `syncer runs` lists them"
                )
            return {}
        manifest = {
            "tool": tool,
            "exported_at": at,
            "since": self.since,
            "audience": self.key,
            "previous": self._seals[0]["previous"],
            "head": proof.head,
            "changes": sum(file.lines for file in self._files.values()),
            "erased": self._erased,
            "hidden": self._hidden,
            "unsealed": proof.unsealed,
            "begins": proof.begins,
            "files": {name: file.close() for name, file in self._files.items()},
        }
        document = manifest | {"seals": self._seals}
        with open_private(self.folder / MANIFEST) as file:
            file.write(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        return manifest

    def discard(self) -> None:
        for file in self._files.values():
            file.close()
            file.path.unlink()


class _File:
    """A file that knows its SHA-256."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        self._file = open_private(path)
        self._hash = sha256()

    def write(self, line: bytes) -> None:
        self._file.write(line)
        self._hash.update(line)
        self.lines += 1

    def close(self) -> str:
        self._file.close()
        return self._hash.hexdigest()
