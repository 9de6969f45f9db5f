"""Workers: servers that register themselves, and what follows from what they say."""

import re
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from app.kernel.errors import Conflict, NotFound

Dialect = Literal["openai", "infer"]

HEARTBEAT_S: Final = 30.0
# A worker is left alone when it has missed this many heartbeats.
MISSES_LIMIT: Final = 3
RETRY_S: Final = 1.0
RETRY_LIMIT_S: Final = 30.0
PREFIX: Final = "worker/"
INFER: Final = "/infer"

WorkerName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)")]
ModelName = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x20\x7f]+$(?!\n)")]
Endpoint = Annotated[str, Meta(min_length=1, max_length=2048)]
QueueLength = Annotated[int, Meta(ge=0, le=1_000_000, description="Calls that wait there now.")]


class NameTaken(Conflict):
    """Another user's worker has this name."""

    title = "Name taken"


class TooManyWorkers(Conflict):
    """The user has as many workers as one may have."""

    title = "Too many workers"


class WorkerUnknown(NotFound):
    """No such worker, or somebody else's. It is to register again."""

    title = "Worker unknown"


class Registration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker says of itself.

    ``dialect`` is ``infer`` where the endpoint's path ends in ``/infer``, else ``openai``, unless
    it is given. ``limit`` is how many calls it takes at once, 0 for the installation's own limit.
    ``key`` is sent to it with each call, and never shown.
    """

    name: WorkerName
    endpoint: Endpoint
    models: Annotated[list[ModelName], Meta(max_length=100)]
    dialect: Dialect | None = None
    queue_length: QueueLength = 0
    limit: Annotated[int, Meta(ge=0, le=100_000)] = 0
    key: Annotated[str, Meta(max_length=512, pattern=r"^[!-~]*$(?!\n)")] = ""

    def __repr__(self) -> str:
        return f"Registration({self.name!r}, {self.endpoint!r}, {self.models!r})"

    @property
    def wire(self) -> Dialect:
        return self.dialect or dialect_of(self.endpoint)

    def is_as(self, other: "Registration | None") -> bool:
        """Whether nothing differs but the queue's length."""
        mine = msgspec.structs.replace(self, queue_length=0)
        return other is not None and mine == msgspec.structs.replace(other, queue_length=0)


class Heartbeat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sign of life. What is left out stays as it was."""

    queue_length: QueueLength | None = None


class NamedHeartbeat(Heartbeat, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A sign of life that names its worker."""

    name: WorkerName


class Lease(msgspec.Struct, frozen=True):
    """How long a worker counts as there: until ``expires_at``, in milliseconds since 1970.

    A heartbeat is due every ``heartbeat_s`` seconds. Members that another router leaves out have
    the values that its contract names.
    """

    status: Literal["ok"] = "ok"
    heartbeat_s: Annotated[float, Meta(gt=0, le=3600)] = HEARTBEAT_S
    expires_at: int = 0


class WorkerRead(msgspec.Struct, frozen=True):
    """One worker. Moments are milliseconds since 1970. ``is_shared``: it serves everybody here."""

    name: str
    user_id: UUID
    endpoint: str
    dialect: Dialect
    models: list[str]
    queue_length: int
    limit: int
    is_shared: bool
    is_live: bool
    last_heartbeat_at: int
    expires_at: int


class WorkerTarget(msgspec.Struct, frozen=True):
    """Where a worker is called. ``name`` is what errors and usage rows call it.

    ``may_be_private``: its URL is the owner's, and may lead into this network.
    """

    name: str
    endpoint: str
    dialect: Dialect
    may_be_private: bool


def dialect_of(endpoint: str) -> Dialect:
    return "infer" if endpoint.rstrip("/").endswith(INFER) else "openai"


def own_endpoint(host: str, port: int, machine: str) -> str:
    """Where an agent that listens on ``host`` is called: ``machine`` if it listens everywhere."""
    named = machine if host in {"", "0.0.0.0", "::"} else host  # noqa: S104 - nothing is bound here
    return f"http://[{named}]:{port}" if ":" in named else f"http://{named}:{port}"


def worker_name(host: str) -> str:
    """Make a worker's name of a host's."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", host).lstrip("._-")[:64]
    return name or "agent"


def retry_s(failures: int, draw: float) -> float:
    """Seconds until the next try: between half and all of 1 s doubled with each failure, 30 s at
    most. ``draw`` is uniform in [0, 1).
    """
    most = min(RETRY_LIMIT_S, RETRY_S * 2.0 ** min(failures - 1, 10))
    return most * (0.5 + draw / 2)
