"""The usage journal: JSON lines in segment files, each locked by the process that writes it.

A line is in the kernel's page cache when ``append`` returns, so it survives the process; a power
failure may cost the last lines. A segment whose lock is free belongs to a process that is gone.
"""

import errno
import fcntl
import mmap
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from app.kernel import log
from app.kernel.errors import Unavailable
from app.modules.billing.domain.usage import Usage

SEGMENT_BYTES = 1_048_576

_log = log.get("billing")


class JournalFull(Unavailable):
    """Usage cannot be kept, so no call is answered."""

    title = "Usage journal full"


class FileJournal:
    """Segments are named by time and process, so that names sort by age and never meet.

    The segment being written is mapped into memory: a line costs a copy and no system call, which
    would hand the interpreter's lock to another thread on every model call.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Usage).decode
        self._name = ""
        self._file = -1
        self._pages: mmap.mmap | None = None
        self._at = 0

    def append(self, usage: Usage) -> str:
        line = self._encode(usage) + b"\n"
        end = self._at + len(line)
        if self._pages is None or end > SEGMENT_BYTES:
            self.close_segment()
            self._pages = self._begin()
            end = len(line)
        self._pages[self._at : end] = line
        self._at = end
        return self._name

    def close_segment(self) -> None:
        if self._pages is not None:
            self._pages.close()
            os.ftruncate(self._file, self._at)
            os.close(self._file)
            self._pages, self._file, self._at = None, -1, 0

    def closed_segments(self) -> Sequence[str]:
        names = sorted(path.name for path in self._folder.glob("*.jsonl"))
        current = self._name if self._file >= 0 else ""
        return [name for name in names if name != current and self._is_free(name)]

    def read(self, segment: str) -> list[Usage]:
        found: list[Usage] = []
        path = self._folder / segment
        text = path.read_bytes().rstrip(b"\0") if path.exists() else b""
        for line in text.splitlines(keepends=True):
            try:
                found.append(self._decode(line))
            except msgspec.DecodeError:
                self._keep_aside(path, line)
        return found

    def drop(self, segment: str) -> None:
        (self._folder / segment).unlink(missing_ok=True)

    def _keep_aside(self, path: Path, line: bytes) -> None:
        """Forget a line without its end: nobody was answered for it. Keep any other as evidence."""
        _log.warning("billing.journal-line-damaged", segment=path.name)
        if line.endswith(b"\n"):
            with suppress(FileExistsError):
                path.with_suffix(".damaged").hardlink_to(path)

    def _begin(self) -> mmap.mmap:
        """Lock a new file under a name that no reader looks at, fill it, give it its own name.

        It is filled at once, so that a full disk is an error here and not a signal later.
        """
        self._name = f"{time.time_ns():020}-{os.getpid()}.jsonl"
        hidden = self._folder / f"{self._name}.new"
        try:
            self._file = os.open(hidden, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._fill()
            hidden.rename(self._folder / self._name)
            return mmap.mmap(self._file, SEGMENT_BYTES)
        except OSError as error:
            hidden.unlink(missing_ok=True)
            os.close(self._file)
            raise JournalFull(f"Usage cannot be written down: {error.strerror}.") from error

    def _fill(self) -> None:
        if os.write(self._file, bytes(SEGMENT_BYTES)) < SEGMENT_BYTES:
            raise OSError(errno.ENOSPC, "the disk is full")

    def _is_free(self, name: str) -> bool:
        try:
            file = os.open(self._folder / name, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(file)
        return True
