"""Flows in files: when they are read, what is refused, and what comes with the product."""

import os
from pathlib import Path

import pytest

from app.modules.flows.adapters import SHIPPED
from app.modules.flows.adapters.flow_files import FILES_LIMIT, YamlFlowFiles
from app.modules.flows.domain.checks import DOCUMENT_LIMIT_BYTES, task_of
from app.modules.flows.domain.definitions import FlowTask

FLOW = "name: {name}\nnodes: [{{id: a}}]\n"
# Ten levels of ten aliases would be ten thousand million texts.
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 11)
)


class Folder:
    """The operator's folder beside the product's, and who reads both."""

    def __init__(self, path: Path) -> None:
        self.path = path / "flows"
        self.shipped = path / "shipped"
        self.files = self.opened()

    def opened(self, every_s: float = 0) -> YamlFlowFiles:
        return YamlFlowFiles(str(self.path), str(self.shipped), every_s=every_s)

    def write(self, name: str, text: str | bytes, folder: Path | None = None) -> None:
        folder = folder or self.path
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    async def names(self) -> dict[str, str]:
        return {flow_id: flow.name for flow_id, flow in (await self.files.read()).items()}


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


def told(caplog) -> list[dict[str, str]]:
    """What the log says of files that are no flows."""
    return [one.fields for one in caplog.records if one.msg == "flows.file-unreadable"]


class TestRead:
    async def test_folders_that_are_not_there_have_no_flows(self, folder):
        assert await folder.files.read() == {}

    async def test_a_flow_is_called_what_its_file_is_called(self, folder):
        folder.write("review.yaml", FLOW.format(name="Review"))

        flows = await folder.files.read()

        assert flows["review"].flow_id == "review"
        assert flows["review"].exit_points == ["a"]

    async def test_files_are_read_again_when_they_change(self, folder):
        folder.write("review.yaml", FLOW.format(name="one"))
        await folder.files.read()
        folder.write("review.yaml", FLOW.format(name="other"))

        assert await folder.names() == {"review": "other"}

    async def test_while_they_stay_the_answer_is_the_same_object(self, folder):
        folder.write("review.yaml", FLOW.format(name="one"))
        first = await folder.files.read()

        assert await folder.files.read() is first

    async def test_files_that_are_gone_are_forgotten(self, folder):
        folder.write("review.yaml", FLOW.format(name="one"))
        await folder.files.read()
        (folder.path / "review.yaml").unlink()

        assert await folder.files.read() == {}

    async def test_nobody_looks_before_it_is_time(self, folder):
        folder.write("review.yaml", FLOW.format(name="one"))
        files = folder.opened(every_s=3600)
        await files.read()
        folder.write("review.yaml", FLOW.format(name="other"))

        assert (await files.read())["review"].name == "one"

    async def test_the_operators_stand_before_the_products(self, folder):
        for name in ("review.yaml", "summarize.yaml"):
            folder.write(name, FLOW.format(name="shipped"), folder.shipped)
        folder.write("review.yaml", FLOW.format(name="mine"))

        assert await folder.names() == {"review": "mine", "summarize": "shipped"}

    async def test_an_operators_file_hides_the_products_also_when_it_is_broken(self, folder):
        folder.write("review.yaml", FLOW.format(name="shipped"), folder.shipped)
        folder.write("review.yaml", "name: mine")

        assert await folder.names() == {}

    async def test_a_broken_file_spoils_no_other(self, folder):
        folder.write("bad.yaml", "nodes: many")
        folder.write("good.yaml", FLOW.format(name="good"))

        assert await folder.names() == {"good": "good"}

    async def test_files_with_other_names_are_no_flows(self, folder):
        for name in ("a b.yaml", "notes.txt", ".yaml", "review.yaml.bak", "ä.yaml"):
            folder.write(name, FLOW.format(name="x"))

        assert await folder.names() == {}

    async def test_there_are_so_many_at_most(self, folder):
        for number in range(FILES_LIMIT + 1):
            folder.write(f"f{number:04}.yaml", FLOW.format(name="x"))

        assert len(await folder.names()) == FILES_LIMIT

    async def test_what_was_read_stays_when_the_folder_cannot_be_looked_at(self, folder):
        folder.write("review.yaml", FLOW.format(name="one"))
        await folder.files.read()
        (folder.path / "review.yaml").unlink()
        folder.path.rmdir()
        # A link to itself is a folder that nobody can open, also not root.
        folder.path.symlink_to(folder.path)

        assert await folder.names() == {"review": "one"}

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "document"),
            ("[1, 2]", "document"),
            ("nodes: [{id: a}]", "name"),
            ("name: x\nnodes: [{id: a, depends_on: [b]}]", "'b'"),
            ("name: x\nflow_id: other\nnodes: [{id: a}]", "flow_id"),
            ("name: x\nname: y\nnodes: [{id: a}]", "twice"),
            ("name: x\nversion: 1.0\nnodes: [{id: a}]", "version"),
            ("name: x\nnodes: [{id: a}]\nmetadata: {day: 2026-01-01}", "quote it"),
            ("name: x\nnodes: [{id: a}]\nmetadata: {on: 1}", "a name in it"),
            ("name: x\nnodes: &n [{id: a}]\nexit_points: *n", "alias"),
            ("name: !!python/object/apply:os.system [id]", "python"),
            ("name: x\nnodes: [", "parsing"),
            ("name: \x00", "special characters"),
            (b"name: \xff\xfe", "unacceptable"),
            (BOMB, "alias"),
            ("[" * 10_000, "deep"),
            ("x" * (DOCUMENT_LIMIT_BYTES + 1), "256 KiB"),
        ],
    )
    async def test_the_log_says_why_a_file_is_no_flow(self, folder, caplog, text, reason):
        folder.write("review.yaml", text)

        assert await folder.names() == {}

        [line] = told(caplog)
        assert line["file"] == "review.yaml"
        assert reason in line["reason"]

    async def test_the_log_says_it_once(self, folder, caplog):
        folder.write("review.yaml", "name: x")

        await folder.names()
        await folder.names()

        assert len(told(caplog)) == 1

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
    async def test_a_file_that_may_not_be_read_is_left_out(self, folder):
        folder.write("review.yaml", FLOW.format(name="one"))
        (folder.path / "review.yaml").chmod(0)

        assert await folder.names() == {}


class TestShipped:
    @pytest.fixture
    async def shipped(self, tmp_path):
        return await YamlFlowFiles(str(tmp_path / "none"), str(SHIPPED)).read()

    async def test_each_file_is_a_flow(self, shipped):
        assert sorted(shipped) == sorted(path.stem for path in SHIPPED.iterdir())
        assert sorted(shipped) == ["extract", "review", "summarize"]

    async def test_they_need_nothing_that_an_installation_has_not(self, shipped):
        nodes = [node for flow in shipped.values() for node in flow.nodes]

        assert {node.work for node in nodes} == {"llm", "code", "flow", None}
        tasks = [task_of(node) for node in nodes]
        assert {task.flow_id for task in tasks if isinstance(task, FlowTask)} <= shipped.keys()

    async def test_each_says_what_it_takes_and_gives(self, shipped):
        assert all("Input:" in flow.description for flow in shipped.values())
        assert all("Output:" in flow.description for flow in shipped.values())
