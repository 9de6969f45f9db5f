"""What every blob store does with a key, and with the bytes that come in."""

import asyncio
import errno
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import IOBase
from typing import ParamSpec, Protocol, TypeVar

from app.kernel.errors import Invalid, NotFound, OutOfSpace, Unavailable
from app.kernel.ports import BlobInfo

MAX_KEY_CHARS = 250
FLUSH_BYTES = 262_144
# A limit on the size of one file is one more way to have no room.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# A disk that takes longer over one step is not waited for by somebody who has left.
DISK_S = 30.0

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound="Sink")

# Lower case only: a disk may not tell "A" from "a". No segment is, or begins or ends with, a dot.
_KEY = re.compile(r"[a-z0-9_-]+(?:[./][a-z0-9_-]+)*")


class BadKey(Invalid):
    """A key has a character or a form that not every store can keep."""

    title = "Unusable blob key"


class BlobMissing(NotFound):
    """There is no blob of this key."""

    title = "Blob not found"


class BlobsDown(Unavailable):
    """The blob store does not answer, or takes nothing more."""

    title = "Blob store unavailable"


class BlobsFull(OutOfSpace):
    """The disk, or the bucket, takes nothing more."""

    title = "Blob store full"


class Sink(Protocol):
    """A file that is open for writing."""

    def write(self, data: bytearray, /) -> object: ...

    def close(self) -> None: ...


def check(key: str) -> str:
    """Return the key, if every store can keep it."""
    if len(key) > MAX_KEY_CHARS or _KEY.fullmatch(key) is None:
        raise BadKey(f"A blob key is words of a-z, 0-9, _ and -, joined by . and /, not {key!r}.")
    return key


def folder_of(prefix: str) -> str:
    """Return the folders that a prefix of keys names in full, without the last slash."""
    folder = prefix.rpartition("/")[0]
    return check(folder) if folder else ""


async def receive(chunks: AsyncIterator[bytes], file: Sink) -> BlobInfo:
    """Write everything to ``file``, in a thread. What the sender raises passes through."""
    digest, size, pending = hashlib.sha256(), 0, bytearray()

    def flush() -> None:
        digest.update(pending)
        file.write(pending)
        pending.clear()

    async for chunk in chunks:
        pending += chunk
        size += len(chunk)
        if len(pending) >= FLUSH_BYTES:
            await on_disk(flush)
    await on_disk(flush)
    return BlobInfo(size, digest.hexdigest())


@contextmanager
def closing(file: F) -> Iterator[F]:
    """Close ``file`` in the end. What a full disk refused is then tried again, in vain."""
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


async def on_disk(work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Do in a thread what may wait for a disk. Who is cancelled leaves when it is done.

    Otherwise a blob could appear after its sender has given it up, and cleaned up behind itself.
    """
    running = asyncio.get_running_loop().run_in_executor(None, partial(work, *args, **named))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        running.add_done_callback(_let_go)
        await asyncio.wait([running], timeout=DISK_S)
        raise
    except OSError as error:
        if error.errno in FULL:
            raise BlobsFull("The server has no room for these bytes.") from error
        raise BlobsDown("The server cannot reach its bytes; try again in a moment.") from error


def _let_go(ended: "asyncio.Future[T]") -> None:
    """Nobody waits for this any more: a file it has opened is closed, what it raised is known."""
    if not ended.cancelled() and ended.exception() is None:
        result = ended.result()
        if isinstance(result, IOBase):
            result.close()
