"""Files that go in with a script, and those that it leaves."""

from datetime import timedelta
from hashlib import sha256

import pytest
import pytest_asyncio

from tests.modules.sandbox.desks import file, open_desk
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KB, MB = 1024, 1024 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tmp_path_factory):
    async with open_desk(tmp_path_factory.mktemp("house") / "data") as opened:
        yield opened


class TestFiles:
    async def test_lie_in_the_working_folder_of_the_script(self, desk):
        code = "import os; set_result([sorted(os.listdir()), open('in.txt').read()])"

        read = await desk.run(code, files=[file("in.txt", b"hi"), file("b", b"")])

        assert read["result"] == [["b", "in.txt"], "hi"]

    async def test_arrive_whole_also_where_they_are_large(self, desk):
        data = bytes(range(256)) * 8 * KB
        code = "import hashlib; set_result(hashlib.sha256(open('x','rb').read()).hexdigest())"

        read = await desk.run(code, files=[file("x", data)])

        assert read["result"] == sha256(data).hexdigest()

    async def test_may_have_any_name_that_is_one(self, desk):
        names = ["with space", "ä😀", ".hidden", "a" * 128, "-rf", "a:b*c?"]
        code = "import os; set_result(sorted(os.listdir()))"

        read = await desk.run(code, files=[file(name, b"1") for name in names])

        assert read["result"] == sorted(names)

    @pytest.mark.parametrize(
        "name",
        ["", ".", "..", "a/b", "/etc/passwd", "../a", "a\\b", "a\0b", "a\nb", "a" * 129],
    )
    async def test_are_refused_by_names_that_are_paths(self, desk, name):
        answer = await desk.refused("1", files=[file(name, b"1")])

        assert answer.status_code == 400

    async def test_are_refused_where_two_have_one_name(self, desk):
        answer = await desk.refused("1", files=[file("a", b"1"), file("a", b"2")])

        assert answer.status_code == 400

    async def test_are_refused_where_they_are_too_many(self, desk):
        answer = await desk.refused("1", files=[file(str(n), b"") for n in range(257)])

        assert answer.status_code == 400

    async def test_of_one_are_not_seen_by_the_next(self, desk):
        await desk.run("1", files=[file("mine", b"1")])

        read = await desk.run("import os; set_result(os.listdir())")

        assert read["result"] == []


class TestArtifacts:
    async def test_are_listed_and_can_be_had(self, desk):
        read = await desk.run("save_artifact('a.bin', bytes(range(256)))")

        answer = await desk.artifact(read["execution_id"], "a.bin")

        assert read["artifacts"] == [{"name": "a.bin", "size_bytes": 256}]
        assert (answer.status_code, answer.content) == (200, bytes(range(256)))

    async def test_are_always_a_download(self, desk):
        read = await desk.run("save_artifact('page.html', '<script>alert(1)</script>')")

        answer = await desk.artifact(read["execution_id"], "page.html")

        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''page.html"

    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("with space.txt", "with%20space.txt"),
            ("ä😀.txt", "%C3%A4%F0%9F%98%80.txt"),
            ("50%.txt", "50%25.txt"),
            ("a?b#c", "a%3Fb%23c"),
            ("quote'\".txt", "quote%27%22.txt"),
        ],
    )
    async def test_may_have_any_name_that_is_one(self, desk, name, path):
        read = await desk.run(f"save_artifact({name!r}, b'1')")

        answer = await desk.artifact(read["execution_id"], path)

        assert read["artifacts"] == [{"name": name, "size_bytes": 1}]
        assert (answer.status_code, answer.content) == (200, b"1")
        assert answer.headers["content-disposition"].endswith(path)

    @pytest.mark.parametrize("name", ["../a", "/etc/passwd", "..", "", "a/b", "a\0"])
    async def test_are_refused_by_names_that_are_paths(self, desk, name):
        read = await desk.run(f"save_artifact({name!r}, b'1')")

        assert (read["status"], read["artifacts"]) == ("error", [])
        assert "ValueError" in read["error"]

    async def test_of_one_name_are_the_last_one(self, desk):
        read = await desk.run("save_artifact('a', b'first'); save_artifact('a', b'last')")

        answer = await desk.artifact(read["execution_id"], "a")

        assert read["artifacts"] == [{"name": "a", "size_bytes": 4}]
        assert answer.content == b"last"

    async def test_have_a_number_and_a_size(self, desk):
        await desk.project("tidy", limits={"artifacts": 2, "artifact_mb": 1})

        many = await desk.run("for n in range(3): save_artifact(str(n), b'1')", project="tidy")
        large = await desk.run("save_artifact('a', bytes(2 * 1024**2))", project="tidy")

        assert (many["status"], len(many["artifacts"])) == ("error", 2)
        assert (large["status"], large["artifacts"]) == ("error", [])

    async def test_arrive_whole_also_where_they_are_large(self, desk):
        read = await desk.run("save_artifact('a', bytes(range(256)) * 30_000)")

        answer = await desk.artifact(read["execution_id"], "a")

        assert answer.content == bytes(range(256)) * 30_000

    async def test_of_a_script_that_failed_are_kept(self, desk):
        read = await desk.run("save_artifact('a', b'1')\n1 / 0")

        assert (await desk.artifact(read["execution_id"], "a")).content == b"1"

    async def test_of_a_script_that_was_cancelled_are_kept(self, desk):
        execution_id = await desk.begun(
            "save_artifact('a', b'1')\nprint(1, flush=True)\nwhile True: 1"
        )

        read = (await desk.cancel(execution_id)).json()

        assert read["artifacts"] == [{"name": "a", "size_bytes": 1}]
        assert (await desk.artifact(execution_id, "a")).content == b"1"

    @pytest.mark.parametrize("path", ["nothing", "..%2Fa", "%2Fetc%2Fpasswd", "0"])
    async def test_that_are_not_there_are_not_found(self, desk, path):
        read = await desk.run("save_artifact('a', b'1')")

        assert (await desk.artifact(read["execution_id"], path)).status_code == 404

    async def test_are_gone_when_the_run_is_forgotten(self, desk):
        read = await desk.run("save_artifact('a', b'1'); save_artifact('b', b'1')")
        folder = f"sandbox/{read['execution_id']}/"
        assert len([key async for key in desk.house.blobs.keys(folder)]) == 2

        runs = next(m for m in desk.house.block.modules if m.name == "runs").runs
        await runs.sweep(keep=timedelta(0), keep_count=1000)

        async def is_gone():
            return not [key async for key in desk.house.blobs.keys(folder)]

        await until(is_gone)
        assert (await desk.get(f"/executions/{read['execution_id']}")).status_code == 404
        assert (await desk.artifact(read["execution_id"], "a")).status_code == 404
