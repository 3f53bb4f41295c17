"""Where files are kept, local or remote, through fsspec: which there are, and their bytes.

The only home of fsspec. Whatever the storage raises becomes one `SourceError`.
"""

from __future__ import annotations

import gzip
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any, NamedTuple, cast

from syncer.clock import read as read_time
from syncer.errors import ConfigError, SourceError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: What a storage calls the time of a file, and its version; the first that is there counts.
_TIMES = ("LastModified", "mtime", "updated", "last_modified", "last_modified_time", "created")
_VERSIONS = ("ETag", "etag", "md5Hash", "content_md5")
#: The extra of this package that has the driver of a storage.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}
#: How often botocore makes a request of S3, and s3fs around it (twice around it for what is in a
#: file): with 15 seconds each, a storage that never answers is given up after three minutes.
_ATTEMPTS, _ROUNDS = 3, 2
#: How DuckDB tells what the storage raised: its kind and its message.
_RAISED = re.compile(
    r"Traceback \(most recent call last\):\n(?: .*\n)*(\w+): (?:\[Errno \d+\] )?(.*)"
)


class File(NamedTuple):
    """A file: its path in the storage, when it was written (epoch milliseconds), its bytes.

    `version` is another text whenever the file is another one.
    """

    path: str
    modified: int
    size: int
    version: str

    @property
    def name(self) -> str:
        """Its last part, less what says how it is compressed."""
        name = self.path.rpartition("/")[2].lower()
        return (
            name.removesuffix(".gz")
            .removesuffix(".gzip")
            .removesuffix(".zst")
            .removesuffix(".zstd")
        )


class Storage:
    """The files of one pattern, such as `s3://bucket/vip/*.csv.gz` or `/data/vip.csv`."""

    def __init__(self, pattern: str, options: Mapping[str, Any]) -> None:
        self.pattern = pattern
        self._protocol, separator, _ = pattern.partition("://")
        self._remote = bool(separator) and self._protocol != "file"
        self._options = dict(options) if self._remote else {}

    @cached_property
    def filesystem(self) -> Any:
        """The fsspec file system; raise `ConfigError` if its driver is not installed."""
        try:
            import fsspec

            options, is_s3 = self._options, _EXTRAS.get(self._protocol) == "s3"
            if is_s3:
                own = {"retries": {"total_max_attempts": _ATTEMPTS}}
                options = {**options, "config_kwargs": own | options.get("config_kwargs", {})}
            filesystem, self._path = fsspec.core.url_to_fs(self.pattern, **options)
            if is_s3:
                filesystem.retries = _ROUNDS
        except ImportError as error:
            extra = _EXTRAS.get(self._protocol, "files") if self._remote else "files"
            raise ConfigError(
                f"engage.files: {self.pattern} cannot be read ({error}); install the driver: "
                f"pip install 'engage-amberflo-sync[{extra}]'"
            ) from None
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"engage.files: {self.pattern} cannot be read: {' '.join(str(error).split())}"
            ) from None
        return filesystem

    def files(self) -> list[File]:
        """Return the files that match, the oldest first; those of one time by their path."""
        with self.translated(self.pattern):
            self.filesystem.invalidate_cache()
            matching = self.filesystem.glob(self._path, detail=True)
            files = [_file(path, info) for path, info in matching.items() if info["type"] == "file"]
        return sorted(files, key=lambda file: (file.modified, file.path))

    def check_unchanged(self, file: File) -> None:
        """Raise `SourceError` if a file is another one by now."""
        with self.translated(file.path):
            self.filesystem.invalidate_cache()
            now = _file(file.path, self.filesystem.info(file.path))
        if _content(now.version) != _content(file.version):
            raise SourceError(
                f"{file.path} was written while it was read; nothing of it is taken until it is "
                "whole"
            )

    @contextmanager
    def opened(self, file: File) -> Iterator[IO[bytes]]:
        """Open a file for its bytes as they were before they were compressed."""
        with self.translated(file.path), self.filesystem.open(file.path, "rb") as raw:
            yield from _unpacked(file.path.lower(), raw)
            if raw.tell() < file.size:
                raise SourceError(
                    f"{file.path}: {raw.tell():,} of {file.size:,} bytes came; nothing of it is "
                    "taken until it is whole"
                )

    def address(self, file: File) -> str:
        """Return the whole address of a file, with the protocol where it is remote."""
        return str(self.filesystem.unstrip_protocol(file.path)) if self._remote else file.path

    @contextmanager
    def translated(self, place: str) -> Iterator[None]:
        """Turn what a storage raises into one line: each has errors of its own."""
        try:
            yield
        except (SourceError, ConfigError, GeneratorExit, KeyboardInterrupt):
            raise
        except EOFError:
            raise SourceError(
                f"{place} is cut off: its compressed data has no end; nothing of it is taken until "
                "it is whole"
            ) from None
        except FileNotFoundError:
            raise SourceError(f"{place} does not exist; nothing was changed") from None
        except Exception as error:
            is_refusal, reason = _refusal_and_reason(error)
            raise SourceError(
                f"{place} cannot be read: {reason}; nothing was changed{self._advice(is_refusal)}"
            ) from error

    def _advice(self, is_refusal: bool) -> str:
        """Return what would be right, to end a line with."""
        if is_refusal:
            return (
                ": let the login list and read the files there, or log in as another (by the "
                "environment, a role, a profile or engage.files.storage)"
                if self._remote
                else ": let this user read it"
            )
        if self._remote:
            return ": see whether the storage works, and whether engage.files.storage is right"
        return ""


def _refusal_and_reason(error: Exception) -> tuple[bool, str]:
    """Return whether a storage lets this user not read, and why it cannot be read."""
    text = str(error).partition("\n\nLINE 1: ")[0]  # DuckDB shows the statement, too
    if raised := _RAISED.search(text):
        return raised[1] == PermissionError.__name__, raised[2]
    reason = " ".join(text.split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.errno:
        reason = error.strerror
    return isinstance(error, PermissionError), reason


def _unpacked(name: str, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield the stream of a file's bytes as they were before they were compressed."""
    if name.endswith((".gz", ".gzip")):
        with gzip.GzipFile(fileobj=raw) as stream:
            yield cast(IO[bytes], stream)
    elif name.endswith((".zst", ".zstd")):
        with zstd.ZstdFile(raw) as stream:
            yield cast(IO[bytes], stream)
    else:
        yield raw


def _file(path: str, info: Mapping[str, Any]) -> File:
    modified = next((at for name in _TIMES if (at := read_time(info.get(name))) is not None), None)
    if modified is None:
        raise SourceError(f"{path}: the storage does not say when it was written")
    size = int(info.get("size") or 0)
    mark = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    inode = info.get("ino", "") if os.path.isabs(path) else ""
    return File(path, modified, size, f"{size}:{modified}:{mark}:{inode}")


def _content(version: str) -> str:
    """Return what of a version says what the file holds.

    Where the storage has a mark of the content, the time says no more: some list it with
    milliseconds, and tell it of one file in whole seconds.
    """
    size, _, rest = version.split(":", 2)
    mark = rest.rpartition(":")[0]
    return f"{size}:{mark}" if mark else version


def written_at(version: str) -> int:
    """Return when the file of a version was written (epoch milliseconds)."""
    return int(version.split(":")[1])
