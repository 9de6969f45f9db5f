"""The head of a vault: what its devices last agreed on, sealed and chained.

A head names the root of the tree, its own number and the head before it. ``marks`` say, for each
device, the last head that it wrote. They find forks also across heads that nobody shows any more:
a device builds only on heads that descend from its own last one, so a head that does not descend
from what we know lacks the mark of whoever wrote it.
"""

import hmac
import json
from dataclasses import asdict, dataclass
from typing import Any

from insula_vault.errors import IntegrityError

MAC_BYTES = 32
# An old device's mark makes place for a new one's. With 64 of them a head stays under 8 KiB.
DEVICES_MAX = 64


@dataclass(frozen=True, slots=True)
class Mark:
    """Which head: its number and its MAC in hexadecimal digits."""

    seq: int
    mac: str


@dataclass(frozen=True, slots=True)
class Head:
    """``previous`` is the MAC of the head before it, empty in the first one."""

    seq: int
    root: str
    count: int
    previous: str
    device: str
    marks: dict[str, Mark]
    mac: str = ""

    def seen(self) -> dict[str, Mark]:
        """The marks of all devices, its own among them."""
        return {**self.marks, self.device: Mark(self.seq, self.mac)}

    @property
    def fingerprint(self) -> str:
        """To compare with another device's by eye: equal numbers have equal letters."""
        return f"{self.seq}-{self.mac[:16]}"

    def encode(self) -> bytes:
        """The bytes that a vault keeps: the MAC, then what it is of."""
        return bytes.fromhex(self.mac) + _content(self)


def first_or_next(before: Head | None, device: str, root: str, count: int) -> Head:
    """The head that follows ``before``, without its MAC."""
    if before is None:
        return Head(1, root, count, "", device, {})
    newest = sorted(before.seen().items(), key=lambda item: -item[1].seq)[:DEVICES_MAX]
    return Head(before.seq + 1, root, count, before.mac, device, dict(newest))


def authenticated(head: Head, key: bytes) -> Head:
    """The head with its MAC."""
    mac = hmac.digest(key, _content(head), "sha256").hex()
    return Head(head.seq, head.root, head.count, head.previous, head.device, head.marks, mac)


def decode_head(data: bytes, key: bytes) -> Head:
    """Read a head; IntegrityError when none of this account's devices wrote it."""
    mac, content = data[:MAC_BYTES], data[MAC_BYTES:]
    if not hmac.compare_digest(hmac.digest(key, content, "sha256"), mac):
        raise IntegrityError("The head of the vault was not written by one of its devices.")
    said: dict[str, Any] = json.loads(content)
    marks = {device: Mark(**mark) for device, mark in said.pop("marks").items()}
    return Head(**said, marks=marks, mac=mac.hex())


def check_descends(known: Head | None, shown: Head) -> None:
    """IntegrityError unless ``shown`` is ``known`` or was built on it."""
    if known is None or known.mac == shown.mac:
        return
    if shown.seq < known.seq:
        raise IntegrityError(
            f"The server shows head {shown.seq} after it has shown {known.seq}: it went back."
        )
    is_next = shown.seq == known.seq + 1
    if shown.seq == known.seq or (is_next and shown.previous != known.mac):
        raise IntegrityError(f"Two histories have a head {shown.seq}: the server forked them.")
    seen = shown.seen()
    for device, mark in known.seen().items():
        if not _is_passed(seen, device, mark):
            raise IntegrityError(
                f"Head {shown.seq} does not know head {mark.seq}, which this device has seen: the "
                "server forked the history."
            )


def _is_passed(seen: dict[str, Mark], device: str, mark: Mark) -> bool:
    """Whether a history with these marks has the head of ``mark`` in it."""
    later = seen.get(device)
    if later is None:
        # Dropped for newer ones, which a head does only when it is full.
        return len(seen) >= DEVICES_MAX and all(one.seq > mark.seq for one in seen.values())
    return later.seq > mark.seq or later == mark


def _content(head: Head) -> bytes:
    said = asdict(head)
    del said["mac"]
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
