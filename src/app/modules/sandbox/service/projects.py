"""Projects: those of the operator's files, those made over the API, and the built-in one.

A file's project hides one of the same name that was made over the API, and that one the built-in.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from app.kernel.db import Database
from app.kernel.errors import AppError, Conflict, Forbidden, NotFound, Unavailable
from app.modules.auth.api import Principal
from app.modules.sandbox.domain.projects import (
    DEFAULT_NAME,
    Entry,
    Project,
    built_in,
    parse_project,
    reference_of,
)
from app.modules.sandbox.models.projects import ProjectRow
from app.modules.sandbox.repository.projects import ProjectRepository

PROJECTS_LIMIT: Final = 256

_decode_secrets = msgspec.json.Decoder(dict[str, str]).decode


class NoSuchProject(NotFound):
    """No file, no row and no built-in project has this name."""

    title = "Unknown project"


class OwnerOnly(Forbidden):
    """What everybody's scripts depend on is the owner's."""

    title = "Owner only"


class ProjectFixed(Conflict):
    """The project is not one that the API can change."""

    title = "Project is fixed"


class ProjectUp(Conflict):
    """The project has workers."""

    title = "Project is up"


class TooManyProjects(Conflict):
    """There are as many projects as there may be."""

    title = "Too many projects"


class ProjectUnreadable(Unavailable):
    """The project's file or row does not say what it is."""

    title = "Project unreadable"


class SecretMissing(Conflict):
    """A project refers to a variable that the server does not have."""

    title = "Secret missing"


class Seal(Protocol):
    """Seals texts at rest, and opens what it sealed for the same context."""

    def seal(self, text: bytes, context: bytes) -> bytes: ...

    def unseal(self, sealed: bytes, context: bytes) -> bytes | None:
        """``None`` for what was sealed with a secret that we no longer have, or not by us."""
        ...


class ProjectFiles(Protocol):
    """The operator's files, as they are now."""

    async def read(self) -> Mapping[str, Entry]:
        """Every project that has a file, by its name."""
        ...


class Projects:
    """``variables`` are what ``${env:NAME}`` is looked up in, when a secret is used.

    ``is_down`` says whether a project has no workers, by its name.
    """

    def __init__(
        self,
        db: Database,
        seal: Seal,
        files: ProjectFiles,
        variables: Mapping[str, str],
        is_down: Callable[[str], bool],
    ) -> None:
        self._db = db
        self._seal = seal
        self._files = files
        self._variables = variables
        self._is_down = is_down

    async def all(self) -> list[Entry]:
        """Every project by name, also one that cannot be read."""
        files = await self._files.read()
        async with self._db.read() as session:
            rows = await ProjectRepository(session).list(PROJECTS_LIMIT)
        made = {row.name: self._entry(row) for row in rows}
        found = {DEFAULT_NAME: built_in(), **made, **files}
        return [found[name] for name in sorted(found)]

    async def find(self, name: str) -> Entry:
        """One project and where it is written down; ``NoSuchProject``."""
        files = await self._files.read()
        if name in files:
            return files[name]
        async with self._db.read() as session:
            row = await ProjectRepository(session).find(name)
        if row is not None:
            return self._entry(row)
        if name == DEFAULT_NAME:
            return built_in()
        raise NoSuchProject(f"There is no project {name[:64]!r}; GET /sandbox/projects lists them.")

    async def get(self, name: str) -> Project:
        """One project; ``NoSuchProject``, or ``ProjectUnreadable``, which says why."""
        entry = await self.find(name)
        if entry.project is None:
            raise ProjectUnreadable(f"The project {entry.name!r}: {entry.error}")
        return entry.project

    async def operated(self, principal: Principal, name: str) -> Project:
        """A project for the owner to bring up."""
        _owner(principal)
        return await self.get(name)

    async def require_operator(self, principal: Principal, name: str) -> None:
        """Let the owner take a project down, also one that is no longer written down anywhere."""
        _owner(principal)
        if self._is_down(name):
            await self.find(name)

    async def put(self, principal: Principal, name: str, document: Mapping[str, Any]) -> Entry:
        """Make a project, or replace it; its workers stay what they are until it is up again.

        A secret that is ``None`` stays as it is. ``ProjectInvalid``, ``PackageInvalid``.
        """
        _owner(principal)
        await self._refuse_file(name)
        async with self._db.begin() as session:
            projects = ProjectRepository(session)
            if await projects.count_others(name) >= PROJECTS_LIMIT:
                raise TooManyProjects(f"There are {PROJECTS_LIMIT} projects. Remove one first.")
            kept = self._kept(await projects.find(name), document.get("secrets") or {})
            project = parse_project(name, {**document, "secrets": kept})
            await projects.put(self._row(project))
        return Entry(name, "database", project)

    async def remove(self, principal: Principal, name: str) -> None:
        """Drop a project that was made over the API and is down."""
        _owner(principal)
        await self._refuse_file(name)
        entry = await self.find(name)
        if entry.source == "built-in":
            raise ProjectFixed(f"The project {name!r} is built in, and stays.")
        if not self._is_down(name):
            raise ProjectUp(f"The project {name!r} has workers. Take it down first.")
        async with self._db.begin() as session:
            await ProjectRepository(session).remove(name)

    def secrets_of(self, project: Project) -> dict[str, str]:
        """The secrets as the scripts see them; ``SecretMissing`` for a variable that is not set."""
        return {name: self._secret(name, value) for name, value in project.secrets.items()}

    async def _refuse_file(self, name: str) -> None:
        if name in await self._files.read():
            text = f"The project {name!r} is a file of the server's; its operator changes it there."
            raise ProjectFixed(text)

    def _secret(self, name: str, value: str) -> str:
        variable = reference_of(value)
        if variable is None:
            return value
        found = self._variables.get(variable, "")
        if not found:
            text = f"secrets.{name} is the server's variable {variable}, which is not set. Set it."
            raise SecretMissing(text)
        return found

    def _kept(self, row: ProjectRow | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """The secrets that were given, and the former value of each that was left alone."""
        if row is None or None not in given.values():
            return dict(given)
        former = self._opened(row) or {}
        return {name: former.get(name) if text is None else text for name, text in given.items()}

    def _row(self, project: Project) -> ProjectRow:
        document = msgspec.to_builtins(project)
        secrets = msgspec.json.encode(document.pop("secrets"))
        sealed = self._seal.seal(secrets, _context(project.name))
        return ProjectRow(name=project.name, document=document, secrets_sealed=sealed)

    def _entry(self, row: ProjectRow) -> Entry:
        secrets = self._opened(row)
        if secrets is None:
            why = "its secrets were sealed by a secret that APP_SECRET no longer has; put it again."
            return Entry(row.name, "database", None, why)
        try:
            project = parse_project(row.name, {**row.document, "secrets": secrets})
        except AppError as error:
            return Entry(row.name, "database", None, str(error))
        return Entry(row.name, "database", project)

    def _opened(self, row: ProjectRow) -> dict[str, str] | None:
        text = self._seal.unseal(row.secrets_sealed, _context(row.name))
        return None if text is None else _decode_secrets(text)


def _owner(principal: Principal) -> None:
    if principal.role != "owner":
        raise OwnerOnly("Only the owner of this house manages projects.")


def _context(name: str) -> bytes:
    """What sealed secrets belong to, so that they are of no use in another project's row."""
    return b"project-secrets:" + name.encode()
