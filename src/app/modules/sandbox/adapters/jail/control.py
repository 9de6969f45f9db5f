"""What is said between the server and a zygote: one JSON object a datagram."""

from typing import Literal, TypeAlias

import msgspec

from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.ports import Gone, Reason

DATAGRAM_LIMIT_BYTES = 65_536


class Message(msgspec.Struct, frozen=True, tag_field="t", tag=str.lower):
    """One datagram; ``t`` is the name of its kind."""


class WorkerLimits(msgspec.Struct, frozen=True):
    """Those limits that the walls keep; the others are kept by who reads the frames."""

    wall_s: int
    cpu_s: int
    memory_mb: int
    processes: int
    files: int
    file_mb: int
    disk_mb: int
    inodes: int

    @classmethod
    def of(cls, limits: Limits) -> "WorkerLimits":
        return cls(*(getattr(limits, name) for name in cls.__struct_fields__))


class Open(Message, frozen=True):
    """The first: build the walls, then import.

    ``uid_base`` is null unless the server is root. In ``scratch`` lie the folders of all workers
    that have no file system of their own; null where they have.
    """

    tier: str
    binds: list[tuple[str, str]]
    paths: list[str]
    preload: tuple[str, ...]
    limits: WorkerLimits
    uid_base: int | None
    scratch: str | None


class Fork(Message, frozen=True):
    """Make a worker of the three descriptors that come along: frames, stdout, stderr."""

    id: int
    scratch: str | None


class Watch(Message, frozen=True):
    """Its job begins: what it uses is counted from here."""

    id: int


class Kill(Message, frozen=True):
    id: int


class Freeze(Message, frozen=True):
    id: int


class Thaw(Message, frozen=True):
    id: int


class Close(Message, frozen=True):
    """End, with all workers."""


class Ready(Message, frozen=True):
    """It stands behind ``walls`` and waits for orders."""

    walls: dict[str, bool]
    base_kb: int


class Refused(Message, frozen=True):
    """A wall cannot be built on this host, so there will be no worker."""

    wall: str
    why: str


class Failed(Message, frozen=True):
    """A module that was to be imported before cannot be."""

    why: str


class Ended(Message, frozen=True, tag="gone"):
    """A worker and all its processes have ended."""

    id: int
    code: int | None
    signal: int | None
    reason: Reason
    cpu_ms: int
    peak_kb: int

    def event(self) -> Gone:
        return Gone(self.code, self.signal, self.reason, self.cpu_ms, self.peak_kb)


class Frozen(Message, frozen=True):
    id: int


class Thawed(Message, frozen=True):
    id: int


Order: TypeAlias = Open | Fork | Watch | Kill | Freeze | Thaw | Close
Report: TypeAlias = Ready | Refused | Failed | Ended | Frozen | Thawed
Answer: TypeAlias = Literal["frozen", "thawed"]
