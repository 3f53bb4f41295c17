"""Files that nobody but their owner may read, whatever the umask says."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

#: Read and written by the owner only.
PRIVATE = 0o600


def make_private(path: Path) -> None:
    """Make the file where it is not there, and take it from everybody but its owner where that is
    us. It is not opened when it is there: closing it would end the locks of SQLite on it."""
    try:
        open_private(path).close()
    except FileExistsError:
        keep_private(path)


def open_private(path: Path) -> BinaryIO:
    """A new file to write to; `FileExistsError` where there is one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    keep_private(descriptor)  # a umask may have taken more
    return os.fdopen(descriptor, "wb")


def keep_private(file: Path | int) -> None:
    """Take a file (or an open one, by its descriptor) from everybody but its owner, where that is
    us and it is there. What is no file, as a device, is everybody's."""
    with suppress(OSError):  # a file system without modes
        found = os.stat(file)
        if not stat.S_ISREG(found.st_mode):
            return
        if stat.S_IMODE(found.st_mode) != PRIVATE and found.st_uid == os.geteuid():
            os.chmod(file, PRIVATE)
