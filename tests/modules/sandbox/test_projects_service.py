"""Projects: files before the table, the table before the built-in one, and who may do what."""

import asyncio
from uuid import uuid4

import pytest

import app.modules.auth.models
import app.modules.runs.models  # noqa: F401 - tables of the sandbox refer to those of both
from app.kernel.db import Database
from app.kernel.jobs import JobBook
from app.kernel.keys import AesGcmSeal, Keyring
from app.modules.auth.api import Principal
from app.modules.sandbox.adapters.project_files import YamlProjectFiles
from app.modules.sandbox.domain.projects import ProjectInvalid
from app.modules.sandbox.models.projects import ProjectRow
from app.modules.sandbox.repository.projects import ProjectRepository
from app.modules.sandbox.service import projects as service
from app.modules.sandbox.service.projects import (
    NoSuchProject,
    OwnerOnly,
    ProjectFixed,
    Projects,
    ProjectUnreadable,
    ProjectUp,
    SecretMissing,
    TooManyProjects,
)

OLD_KEY, NEW_KEY = "o" * 32, "n" * 32


def principal(role: str) -> Principal:
    return Principal(
        user_id=uuid4(),
        kind="key",
        credential_id=uuid4(),
        role=role,
        scopes=frozenset({"full"}),
    )


OWNER, MEMBER = principal("owner"), principal("member")


class Desk:
    """Projects with their folder, and which of them are up."""

    def __init__(self, db, folder) -> None:
        self.db = db
        self.folder = folder
        self.up: set[str] = set()
        self.variables = {"OUR_KEY": "from-outside", "EMPTY": ""}
        self.projects = self.open(OLD_KEY)

    def open(self, *masters: str) -> Projects:
        """The same projects for a server with these master secrets."""
        seal, files = (
            AesGcmSeal(Keyring(masters), "sandbox-sealing"),
            YamlProjectFiles(str(self.folder)),
        )
        return Projects(self.db, seal, files, self.variables, lambda name: name not in self.up)

    def write(self, name: str, text: str) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_text(text)

    async def put(self, name: str, **document) -> None:
        await self.projects.put(OWNER, name, document)

    async def row(self, name: str):
        async with self.db.read() as session:
            return await ProjectRepository(session).find(name)


@pytest.fixture
async def desk(sqlite_url, tmp_path):
    db = Database(sqlite_url, JobBook())
    async with db.writer.begin() as connection:
        await connection.run_sync(ProjectRow.__table__.create)
    yield Desk(db, tmp_path / "projects")
    await db.close()


class TestAll:
    async def test_begins_with_the_built_in_one(self, desk):
        assert [(e.name, e.source) for e in await desk.projects.all()] == [("default", "built-in")]

    async def test_lists_all_sources_by_name(self, desk):
        desk.write("zeta.yaml", "description: a file")
        await desk.put("alpha", description="a row")

        found = [(entry.name, entry.source) for entry in await desk.projects.all()]

        assert found == [("alpha", "database"), ("default", "built-in"), ("zeta", "file")]

    async def test_lists_one_that_cannot_be_read_with_the_reason(self, desk):
        desk.write("broken.yaml", "replicas: 99")

        broken = (await desk.projects.all())[0]

        assert (broken.name, broken.project) == ("broken", None)
        assert broken.error == "broken.yaml: replicas: is not a number from 0 to 64."


class TestGet:
    async def test_prefers_the_file_then_the_row_then_the_built_in_one(self, desk):
        found = [(await desk.projects.get("default")).description]
        await desk.put("default", description="row")
        found.append((await desk.projects.get("default")).description)
        desk.write("default.yaml", "description: file")
        found.append((await desk.projects.get("default")).description)

        assert found == ["Python and its standard library.", "row", "file"]

    async def test_refuses_a_name_that_nobody_has(self, desk):
        with pytest.raises(NoSuchProject, match="'missing'"):
            await desk.projects.get("missing")

    async def test_says_why_a_file_cannot_be_used(self, desk):
        desk.write("broken.yaml", "packages: [../x]")

        with pytest.raises(ProjectUnreadable, match="path"):
            await desk.projects.get("broken")

    async def test_does_not_fall_back_to_what_a_broken_file_hides(self, desk):
        await desk.put("tables", description="row")
        desk.write("tables.yaml", "llm: nobody")

        with pytest.raises(ProjectUnreadable):
            await desk.projects.get("tables")


class TestPut:
    async def test_keeps_what_was_said(self, desk):
        await desk.put("tables", packages=["Pandas"], secrets={"KEY": "hunter2"}, replicas=2)

        project = await desk.projects.get("tables")

        assert (project.packages, project.replicas) == (("pandas",), 2)
        assert project.secrets == {"KEY": "hunter2"}

    async def test_replaces_what_was_there(self, desk):
        await desk.put("tables", description="one", packages=["pandas"])
        await desk.put("tables", description="other")

        assert (await desk.projects.get("tables")).packages == ()

    async def test_writes_no_secret_down_that_can_be_read(self, desk):
        await desk.put("tables", secrets={"KEY": "hunter2"})

        row = await desk.row("tables")
        assert "secrets" not in row.document
        assert b"hunter2" not in row.secrets_sealed

    async def test_leaves_a_secret_alone_that_is_none(self, desk):
        await desk.put("tables", secrets={"KEY": "hunter2", "OTHER": "x"})
        await desk.put("tables", description="other", secrets={"KEY": None})

        assert (await desk.projects.get("tables")).secrets == {"KEY": "hunter2"}

    async def test_refuses_to_keep_a_secret_that_is_not_there(self, desk):
        with pytest.raises(ProjectInvalid, match=r"secrets\.KEY"):
            await desk.put("tables", secrets={"KEY": None})

    async def test_refuses_a_name_that_is_none(self, desk):
        with pytest.raises(ProjectInvalid, match="name"):
            await desk.put("../tables")

    async def test_does_not_change_a_file(self, desk):
        desk.write("tables.yaml", "description: file")

        with pytest.raises(ProjectFixed, match="file"):
            await desk.put("tables")

    async def test_is_the_owners(self, desk):
        with pytest.raises(OwnerOnly):
            await desk.projects.put(MEMBER, "tables", {})

    async def test_makes_so_many_and_no_more(self, desk, monkeypatch):
        monkeypatch.setattr(service, "PROJECTS_LIMIT", 2)
        await desk.put("one")
        await desk.put("two")

        await desk.put("two", description="again")
        with pytest.raises(TooManyProjects):
            await desk.put("three")

    async def test_may_come_from_two_at_once(self, desk):
        await asyncio.gather(*(desk.put("tables", description=str(n)) for n in range(4)))

        assert (await desk.projects.get("tables")).description in "0123"


class TestRemove:
    async def test_drops_a_project(self, desk):
        await desk.put("tables")

        await desk.projects.remove(OWNER, "tables")

        with pytest.raises(NoSuchProject):
            await desk.projects.get("tables")

    async def test_brings_the_built_in_one_back(self, desk):
        await desk.put("default", description="row")

        await desk.projects.remove(OWNER, "default")

        assert (await desk.projects.find("default")).source == "built-in"

    async def test_drops_one_that_cannot_be_read(self, desk):
        await desk.put("tables", secrets={"KEY": "x"})
        projects = desk.open(NEW_KEY)

        await projects.remove(OWNER, "tables")

        assert await desk.row("tables") is None

    async def test_waits_until_it_is_down(self, desk):
        await desk.put("tables")
        desk.up = {"tables"}

        with pytest.raises(ProjectUp, match="down first"):
            await desk.projects.remove(OWNER, "tables")

    async def test_leaves_files_and_the_built_in_one(self, desk):
        desk.write("tables.yaml", "description: file")

        for name in ("tables", "default"):
            with pytest.raises(ProjectFixed):
                await desk.projects.remove(OWNER, name)

    async def test_refuses_a_name_that_nobody_has(self, desk):
        with pytest.raises(NoSuchProject):
            await desk.projects.remove(OWNER, "missing")

    async def test_is_the_owners(self, desk):
        await desk.put("tables")

        with pytest.raises(OwnerOnly):
            await desk.projects.remove(MEMBER, "tables")


class TestOperate:
    async def test_the_owner_brings_a_project_up(self, desk):
        assert (await desk.projects.operated(OWNER, "default")).name == "default"

    async def test_nobody_else_does(self, desk):
        with pytest.raises(OwnerOnly):
            await desk.projects.operated(MEMBER, "default")
        with pytest.raises(OwnerOnly):
            await desk.projects.require_operator(MEMBER, "default")

    async def test_what_is_nowhere_and_down_cannot_be_taken_down(self, desk):
        with pytest.raises(NoSuchProject):
            await desk.projects.require_operator(OWNER, "missing")

    async def test_what_is_up_can_be_taken_down_though_it_was_removed(self, desk):
        desk.up = {"gone"}

        await desk.projects.require_operator(OWNER, "gone")


class TestSecrets:
    async def test_are_values_and_variables_of_the_server(self, desk):
        await desk.put("tables", secrets={"A": "text", "B": "${env:OUR_KEY}"})

        found = desk.projects.secrets_of(await desk.projects.get("tables"))

        assert found == {"A": "text", "B": "from-outside"}

    @pytest.mark.parametrize("variable", ["MISSING", "EMPTY"])
    async def test_name_the_variable_that_is_not_set(self, desk, variable):
        await desk.put("tables", secrets={"KEY": f"${{env:{variable}}}"})

        with pytest.raises(SecretMissing, match=rf"secrets\.KEY is the .* {variable}"):
            desk.projects.secrets_of(await desk.projects.get("tables"))

    async def test_are_read_with_an_older_key_of_the_server(self, desk):
        await desk.put("tables", secrets={"KEY": "hunter2"})

        project = await desk.open(NEW_KEY, OLD_KEY).get("tables")

        assert project.secrets == {"KEY": "hunter2"}

    async def test_cannot_be_read_without_the_key(self, desk):
        await desk.put("tables", secrets={"KEY": "hunter2"})

        with pytest.raises(ProjectUnreadable, match="APP_SECRET"):
            await desk.open(NEW_KEY).get("tables")

    async def test_are_of_no_use_in_another_row(self, desk):
        await desk.put("tables", secrets={"KEY": "hunter2"})
        sealed = (await desk.row("tables")).secrets_sealed
        await desk.put("other")
        row = await desk.row("other")
        row.secrets_sealed = sealed
        async with desk.db.begin() as session:
            await ProjectRepository(session).put(row)

        with pytest.raises(ProjectUnreadable):
            await desk.projects.get("other")


class TestRepository:
    """Statements on both databases."""

    async def test_puts_a_project_in_the_place_of_its_name(self, db):
        for text in ("one", "other"):
            async with db.begin() as session:
                row = ProjectRow(name="tables", document={"model": text}, secrets_sealed=b"x")
                await ProjectRepository(session).put(row)

        async with db.read() as session:
            found = await ProjectRepository(session).list(10)
        assert [(row.name, row.document) for row in found] == [("tables", {"model": "other"})]

    async def test_counts_and_removes(self, db):
        async with db.begin() as session:
            projects = ProjectRepository(session)
            for name in ("a", "b"):
                await projects.put(ProjectRow(name=name, document={}, secrets_sealed=b""))

            assert await projects.count_others("a") == 1
            assert await projects.remove("a") is True
            assert await projects.remove("a") is False
            assert await projects.find("a") is None
