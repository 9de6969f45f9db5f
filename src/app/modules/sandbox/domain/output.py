"""What a script prints: readable, without secrets, its head and its tail kept."""

import codecs
from typing import Final

from app.modules.sandbox.domain.redaction import Redactor

CONTINUATION: Final = bytes(range(0x80, 0xC0))


class Capture:
    """The head and the tail of a text, of ``keep_bytes`` together, and a line on what is missing.

    Sizes are those of UTF-8. It takes twice that memory at most, whatever comes.
    """

    def __init__(self, keep_bytes: int) -> None:
        self._head_bytes = (keep_bytes + 1) // 2
        self._tail_bytes = keep_bytes // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.size_bytes = 0

    @property
    def is_truncated(self) -> bool:
        return self.size_bytes > self._head_bytes + self._tail_bytes

    def add(self, text: str) -> None:
        data = text.encode()
        self.size_bytes += len(data)
        room = self._head_bytes - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if len(data) >= self._tail_bytes:
            self._tail = bytearray(data[len(data) - self._tail_bytes :])
            return
        self._tail += data
        if len(self._tail) > 2 * self._tail_bytes:
            del self._tail[: -self._tail_bytes]

    def text(self) -> str:
        """What was kept. A character that the cut goes through is left out."""
        if not self.is_truncated:
            return (self._head + self._tail).decode()
        head = self._head.decode(errors="ignore")
        kept = self._tail[len(self._tail) - self._tail_bytes :].lstrip(CONTINUATION)
        missing = self.size_bytes - len(head.encode()) - len(kept)
        return f"{head}\n[... {missing} bytes left out ...]\n{kept.decode()}"


class OutputStream:
    """One stream of a script: bytes in; out comes text that may be shown and kept.

    What is no UTF-8, and NUL, which databases refuse, is U+FFFD; terminal colours stay.
    """

    def __init__(self, redactor: Redactor, keep_bytes: int) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._redaction = redactor.stream()
        self._capture = Capture(keep_bytes)
        self.raw_bytes = 0

    @property
    def text(self) -> str:
        return self._capture.text()

    @property
    def is_truncated(self) -> bool:
        return self._capture.is_truncated

    def feed(self, data: bytes) -> str:
        """Take what was printed; return what may be shown now."""
        self.raw_bytes += len(data)
        return self._kept(self._redaction.push(self._readable(data)))

    def finish(self) -> str:
        """Return what was held back as long as more could come."""
        rest = self._redaction.push(self._readable(b"", is_last=True))
        return self._kept(rest + self._redaction.finish())

    def _readable(self, data: bytes, *, is_last: bool = False) -> str:
        return self._decoder.decode(data, is_last).replace("\0", "\ufffd")

    def _kept(self, text: str) -> str:
        self._capture.add(text)
        return text
