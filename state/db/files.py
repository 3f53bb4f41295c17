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
    """Create the file where it is missing, and let only its owner read it.

    An existing file is not opened: closing it would release the locks that SQLite holds on it.
    """
    try:
        open_private(path).close()
    except FileExistsError:
        keep_private(path)


def open_private(path: Path) -> BinaryIO:
    """Create a new file and open it for writing; raise `FileExistsError` where there is one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    keep_private(descriptor)  # a umask may have taken more
    return os.fdopen(descriptor, "wb")


def keep_private(file: Path | int) -> None:
    """Let only the owner read a file (or an open one, by its descriptor), where that is us.

    A missing file, and what is no file, as a device, stays as it is.
    """
    with suppress(OSError):  # a file system without modes
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):
            return
        if stat.S_IMODE(status.st_mode) != PRIVATE and status.st_uid == os.geteuid():
            os.chmod(file, PRIVATE)
