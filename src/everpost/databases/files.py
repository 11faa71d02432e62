"""Small durable files: written beside, fsynced, renamed, and the folder fsynced."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that names in it survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: str | bytes, mode: int = 0o600) -> None:
    """Replace `path`; after return the new content survives a power cut, before it the old one does."""
    beside = path.with_name(f".{path.name}.new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        view = memoryview(data.encode() if isinstance(data, str) else data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(beside, path)
    sync_folder(path.parent)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below."""
    for root, folders, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if os.path.islink(path):
                continue
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        for name in folders:
            sync_folder(Path(root) / name)
    sync_folder(folder)


def syncfs_tells() -> bool:
    """Whether syncfs reports a write that failed: since Linux 5.8."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return found is not None and (int(found[1]), int(found[2])) >= (5, 8)


class FileSystem:
    """The file system of a folder, opened before anything is written that `sync` is to make durable."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def sync(self) -> None:
        """Everything that was written there is durable on return. Raises OSError if any write to it failed since it was
        opened, or since the last call (syncfs(2), with `syncfs_tells`)."""
        if _LIBC.syncfs(self._fd) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))


@contextlib.contextmanager
def file_system(folder: Path) -> Iterator[FileSystem]:
    """Open the file system on which a folder lies."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield FileSystem(fd)
    finally:
        os.close(fd)
