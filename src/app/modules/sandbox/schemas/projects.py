"""Projects on the wire."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.domain.projects import REPLICAS_LIMIT, Entry, Llm, Source, read_replicas

Replicas = Annotated[int, Meta(ge=0, le=REPLICAS_LIMIT)]

NOTHING: Final = Limits()


class ProjectRead(msgspec.Struct, frozen=True):
    """A project, as it is now. Of its secrets, only the names.

    ``status`` is ``up``, ``down``, ``building`` or ``degraded``; ``error`` says what is wrong with
    its workers, or why its file cannot be read.
    """

    name: str
    description: str
    status: str
    replicas: int
    idle_workers: int
    packages: tuple[str, ...]
    preload: tuple[str, ...]
    limits: Limits
    llm: Llm
    model: str
    secrets: list[str]
    source: Source
    error: str | None

    @classmethod
    def of(
        cls, entry: Entry, *, status: str, replicas: int, idle_workers: int, error: str
    ) -> "ProjectRead":
        project = entry.project
        return cls(
            name=entry.name,
            description="" if project is None else project.description,
            status=status,
            replicas=replicas,
            idle_workers=idle_workers,
            packages=() if project is None else project.packages,
            preload=() if project is None else project.preload,
            limits=NOTHING if project is None else project.limits,
            llm="caller" if project is None else project.llm,
            model="" if project is None else project.model,
            secrets=[] if project is None else sorted(project.secrets),
            source=entry.source,
            error=entry.error or error or None,
        )


class ProjectList(msgspec.Struct, frozen=True):
    projects: list[ProjectRead]


class ProjectPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a project shall be. A secret that is ``null`` stays what it was."""

    description: str = ""
    packages: list[str] = []
    preload: list[str] = []
    limits: Limits = Limits()
    secrets: dict[str, str | None] = {}
    llm: Llm = "caller"
    model: str = ""
    replicas: Replicas = 0

    @property
    def document(self) -> dict[str, Any]:
        """The same as a file says it."""
        return {name: getattr(self, name) for name in self.__struct_fields__} | {
            "limits": msgspec.to_builtins(self.limits)
        }


class PoolUp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many workers to keep ready, from 0 to 64; 0 takes the project down.

    Anything is taken here and ``count`` looks at it, because a text of digits would pass as a
    number.
    """

    replicas: Annotated[Any, Meta(extra_json_schema={"type": "integer"})] = 1

    @property
    def count(self) -> int:
        """``ProjectInvalid`` for what is no such number."""
        return read_replicas(self.replicas)


class PoolRead(msgspec.Struct, frozen=True):
    """How far a project's workers are."""

    name: str
    status: str
    replicas: int
