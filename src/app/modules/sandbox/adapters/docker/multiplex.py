"""Takes apart the stream of an attached container: stdout and stderr in packets with headers."""

from collections.abc import Iterator
from typing import Final

STDOUT: Final = 1
STDERR: Final = 2
HEADER_BYTES: Final = 8


class StreamBroken(Exception):
    """The engine sent what is no packet. Nothing after it can be read."""


class Demultiplexer:
    """Fed with bytes as they come, however the network has cut them.

    A packet is one byte that names the stream, three zeros, four bytes of length and so much data.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._stream = 0
        self._missing = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield each stream's bytes as soon as they are here, also parts of a packet."""
        at = 0
        while at < len(data):
            if self._missing:
                part = data[at : at + self._missing]
                self._missing -= len(part)
                at += len(part)
                yield self._stream, part
            else:
                part = data[at : at + HEADER_BYTES - len(self._header)]
                self._header += part
                at += len(part)
                self._begin()

    def _begin(self) -> None:
        if len(self._header) < HEADER_BYTES:
            return
        self._stream = self._header[0]
        if self._stream not in (STDOUT, STDERR) or any(self._header[1:4]):
            raise StreamBroken(f"no packet begins with {bytes(self._header).hex(' ')}")
        self._missing = int.from_bytes(self._header[4:], "big")
        self._header.clear()
