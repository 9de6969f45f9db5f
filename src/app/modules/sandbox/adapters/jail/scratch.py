"""Folders that workers write in where they have no file system of their own.

Each server has one folder, with one for each template and in that one for each worker; a locked
file beside it says that the server lives.
What lies inside was written by scripts, so nothing in it is followed, and no depth is recursed.
"""

import fcntl
import itertools
import os
import stat
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Final

PREFIX: Final = "jail-"
LOCK: Final = ".lock"
CLAIM_TRIES: Final = 10
# Deeper than any limit on a worker allows.
DEPTH_LIMIT: Final = 1_000_000
# Workers with a user id of their own pass through the folders above theirs, and list none.
PASSABLE: Final = 0o711
PRIVATE: Final = 0o700


class ScratchFolder:
    """One server's folder, from ``claim`` to ``release``."""

    def __init__(self, folder: Path, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        self._numbers = itertools.count()

    @classmethod
    def claim(cls, parent: Path) -> "ScratchFolder":
        """Make a folder of its own; ``OSError`` if that cannot be."""
        parent.mkdir(mode=PASSABLE, parents=True, exist_ok=True)
        for _ in range(CLAIM_TRIES):
            folder = parent / f"{PREFIX}{token_hex(8)}"
            lock = _lock(folder.with_suffix(LOCK))
            if lock is not None:
                folder.mkdir()
                folder.chmod(PASSABLE)
                return cls(folder, lock)
        raise OSError(f"no folder in {parent} stays locked")

    def make_room(self) -> Path:
        """A new folder for the folders of one template's workers."""
        room = self._folder / str(next(self._numbers))
        room.mkdir()
        room.chmod(PASSABLE)
        return room

    def release(self) -> None:
        """Remove it, and all that is left in it."""
        remove_tree(self._folder)
        self._folder.with_suffix(LOCK).unlink(missing_ok=True)
        os.close(self._lock)


def make_scratch(room: Path, worker: int, owner: tuple[int, int] | None) -> Path:
    """A new, empty folder, which belongs to ``owner``, a user and a group."""
    folder = room / str(worker)
    folder.mkdir(mode=PRIVATE)
    if owner is not None:
        os.chown(folder, *owner)
    return folder


def sweep(parent: Path) -> None:
    """Remove the folders of servers that live no more."""
    for folder in {path.with_suffix("") for path in parent.glob(f"{PREFIX}*")}:
        mark = folder.with_suffix(LOCK)
        lock = _lock(mark)
        if lock is not None:
            remove_tree(folder)
            mark.unlink(missing_ok=True)
            os.close(lock)


def remove_tree(folder: Path) -> None:
    """Remove a folder, however deep it is and whatever its owner forbids; links are not followed.

    Folders inside are moved up to the top until there is nothing below them, so two descriptors
    are enough. What cannot be removed now is left to a later sweep.
    """
    with suppress(OSError):
        top = _enter(folder, None)
        try:
            _flatten(top)
        finally:
            os.close(top)
        folder.rmdir()


def _flatten(top: int) -> None:
    for _ in range(DEPTH_LIMIT):
        names = os.listdir(top)
        if not names:
            return
        for name in names:
            _dissolve(top, name)


def _dissolve(top: int, name: str) -> None:
    if not _is_folder(top, name):
        os.unlink(name, dir_fd=top)
        return
    inner = _enter(name, top)
    try:
        for child in os.listdir(inner):  # noqa: PTH208 - a descriptor is no path
            if _is_folder(inner, child):
                os.close(_enter(child, inner))
                os.rename(child, token_hex(16), src_dir_fd=inner, dst_dir_fd=top)
            else:
                os.unlink(child, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _is_folder(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _enter(name: str | Path, parent: int | None) -> int:
    """Open a folder, whatever its mode was, and not what a link leads to."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=parent)
    try:
        itself = f"/proc/self/fd/{handle}"
        os.chmod(itself, PRIVATE)  # noqa: PTH101 - a descriptor is no path that could be swapped
        return os.open(itself, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(handle)


def _lock(path: Path) -> int | None:
    """Lock a file of this name, unless somebody has, or it was removed meanwhile."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file), path.stat()):
            return file
    except OSError:
        pass
    os.close(file)
    return None
