"""Projects in files: when they are read, and what is refused."""

import os

import pytest

from app.modules.sandbox.adapters.project_files import YamlProjectFiles

# Ten levels of ten aliases would be ten thousand million texts.
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 11)
)


class Folder:
    """A folder of projects, and who reads it."""

    def __init__(self, path) -> None:
        self.path = path
        self.files = YamlProjectFiles(str(path))

    def write(self, name: str, text: str | bytes) -> None:
        self.path.mkdir(exist_ok=True)
        (self.path / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    async def entry(self, name: str):
        return (await self.files.read())[name]

    async def project(self, name: str):
        return (await self.entry(name)).project

    async def error(self, name: str) -> str:
        return (await self.entry(name)).error


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "projects")


class TestRead:
    async def test_a_folder_that_is_not_there_has_no_projects(self, folder):
        assert await folder.files.read() == {}

    async def test_files_are_read_again_when_they_change(self, folder):
        folder.write("tables.yaml", "description: one")
        await folder.project("tables")
        folder.write("tables.yaml", "description: other")

        assert (await folder.project("tables")).description == "other"

    async def test_files_are_not_read_again_while_they_stay(self, folder):
        folder.write("tables.yaml", "description: one")
        first = await folder.project("tables")

        assert await folder.project("tables") is first

    async def test_files_that_are_gone_are_forgotten(self, folder):
        folder.write("tables.yaml", "description: one")
        await folder.project("tables")
        (folder.path / "tables.yaml").unlink()

        assert await folder.files.read() == {}

    async def test_files_with_other_names_are_no_projects(self, folder):
        for name in ("Tables.yaml", "a b.yaml", "notes.txt", ".yaml", "tables.yaml.bak"):
            folder.write(name, "description: one")

        assert await folder.files.read() == {}

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (BOMB, "an alias is not read here"),
            ("a: &a 1\nb: *a", "an alias is not read here"),
            ("x: 1\n" * 20_000, "more than 64 KiB"),
            ("llm: caller\nllm: gateway", "'llm' is there twice (line 2, column 1)"),
            ("description: [", "(line 1, column 15)"),
            ("description: !!python/object/apply:os.getcwd []", "could not determine"),
            ("[" * 5000, "nested too deep"),
            ("description: 2024-99-99", "month"),
            ("- tables", "is not a mapping"),
            ("? [1, 2]\n: x", "unhashable key"),
            (b"\xff\xfe\xfa", "broken.yaml"),
            ("a: 1\n---\nb: 2", "expected a single document"),
        ],
    )
    async def test_files_that_are_no_project_say_why(self, folder, text, why):
        folder.write("broken.yaml", text)

        assert why in await folder.error("broken")

    async def test_files_that_cannot_be_read_show_no_secret(self, folder):
        folder.write("broken.yaml", "secrets:\n  KEY: hunter2\n  KEY: 'hunter2\n")

        assert "hunter2" not in await folder.error("broken")

    async def test_files_that_are_folders_say_so(self, folder):
        (folder.path / "tables.yaml").mkdir(parents=True)

        assert "directory" in await folder.error("tables")

    async def test_files_of_an_older_contract_are_read(self, folder):
        folder.write(
            "old.yaml",
            "name: old\nsecrets:\n  KEY: ${env:OUR_KEY}\nnetwork_allowlist: []\n"
            "limits:\n  timeout: 30\n  max_output_mb: 10\npackages:\n  - requests\n",
        )

        project = await folder.project("old")

        assert (project.limits.wall_s, project.packages) == (30, ("requests",))

    async def test_files_of_the_same_size_and_time_are_told_apart_by_their_numbers(self, folder):
        folder.write("tables.yaml", "description: one")
        await folder.project("tables")
        path = folder.path / "tables.yaml"
        before = path.stat()
        folder.write("fresh", "description: two")
        os.utime(folder.path / "fresh", ns=(before.st_atime_ns, before.st_mtime_ns))
        (folder.path / "fresh").rename(path)

        assert (await folder.project("tables")).description == "two"
