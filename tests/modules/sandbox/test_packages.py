"""Sets of packages: real pip, behind the real walls."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from app.modules.sandbox.adapters.package_index import Index
from app.modules.sandbox.adapters.packages import PackageSets
from app.modules.sandbox.domain.packages import PackageInvalid
from app.modules.sandbox.ports import TemplateFailed
from tests.modules.sandbox.installs import (
    QUICK,
    Bench,
    SilentIndex,
    compiled_pip,
    without_namespaces,
)
from tests.waiting import until


@pytest.fixture(scope="module")
def pip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compiled_pip(tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def bench(tmp_path: Path, pip: str) -> Bench:
    return Bench(tmp_path, pip)


async def read(sets: PackageSets, *packages: str) -> str:
    """What ``QUICK`` has written into a set."""
    return (Path(await sets.ensure(packages)) / "tiny.py").read_text()


async def refusal(sets: PackageSets, *packages: str) -> TemplateFailed:
    with pytest.raises(TemplateFailed) as failed:
        await sets.ensure(packages)
    return failed.value


async def report(sets: PackageSets) -> dict:
    text = (await refusal(sets, "tiny")).extra["log"]
    return json.loads(text.partition("REPORT")[2].splitlines()[0])


class TestEnsure:
    async def test_installs_what_is_named_and_what_that_needs(self, bench):
        bench.shelf.put("tiny", needs="other>=1")
        bench.shelf.put("other")

        folder = Path(await bench.sets(pip="").ensure(("tiny",)))

        assert (folder / "tiny.py").read_text() == "version = '1.0'\n"
        assert (folder / "other.py").exists()

    async def test_has_nothing_to_do_for_no_packages(self, bench):
        assert await bench.sets().ensure(()) is None

    async def test_installs_a_set_once_however_it_is_written(self, bench):
        sets = bench.sets(pip=bench.program(QUICK))
        before = await read(sets, "tiny", "Other >= 1")

        assert await read(sets, "other>=1", "TINY") == before

    async def test_finds_what_a_server_before_it_installed(self, bench):
        pip = bench.program(QUICK)
        before = await read(bench.sets(pip=pip), "tiny")

        assert await read(bench.sets(pip=pip), "tiny") == before

    async def test_builds_once_for_all_who_ask_at_the_same_time(self, bench):
        async with SilentIndex() as silent:
            sets = bench.sets(index=silent.index)
            asking = [asyncio.create_task(sets.ensure(("tiny",))) for _ in range(3)]
            await until(lambda: silent.requests)

            assert len(bench.left()) == 1

            await sets.close()
            await asyncio.gather(*asking, return_exceptions=True)

    async def test_keeps_the_set_of_another_index_apart(self, bench):
        pip = bench.program(QUICK)
        other = Index(url="https://index.test/simple", config_files=())

        first = await read(bench.sets(pip=pip), "tiny")

        assert await read(bench.sets(pip=pip, index=other), "tiny") != first

    async def test_takes_the_place_of_a_set_that_was_left_half(self, bench):
        sets = bench.sets(pip=bench.program(QUICK))
        before = await read(sets, "tiny")
        (marker,) = bench.root.glob("*/complete.json")
        marker.unlink()

        assert await read(sets, "tiny") != before

    async def test_removes_what_a_server_that_was_killed_had_begun(self, bench):
        (bench.root / f".building-{os.getpid()}-00").mkdir(parents=True)

        await read(bench.sets(pip=bench.program(QUICK)), "tiny")

        assert [name for name in bench.left() if name.startswith(".")] == []

    async def test_belongs_to_the_server_and_to_nobody_else(self, bench):
        bench.shelf.put("tiny")

        await bench.sets().ensure(("tiny",))

        found = bench.installed()
        assert {status.st_uid for status in found} == {os.geteuid()}
        assert not any(status.st_mode & 0o022 for status in found)

    async def test_reads_packages_where_a_configuration_file_says(self, bench, tmp_path):
        bench.shelf.put("tiny")
        config = tmp_path / "pip.conf"
        config.write_text(f"[global]\nno-index = true\nfind-links =\n  {bench.shelf.folder}\n")
        index = Index(variables={"PIP_CONFIG_FILE": str(config)}, config_files=())

        assert await bench.sets(index=index).ensure(("tiny",)) is not None


class TestFailure:
    async def test_says_what_pip_said(self, bench):
        failed = await refusal(bench.sets(), "missing==1")

        assert "No matching distribution found for missing==1" in str(failed)
        assert "missing==1" in failed.extra["log"]

    async def test_leaves_nothing_behind_and_the_old_set_alone(self, bench):
        bench.shelf.put("tiny")
        sets = bench.sets()
        folder = Path(await sets.ensure(("tiny",)))
        before = bench.left()

        await refusal(sets, "tiny==2")

        assert bench.left() == before
        assert (folder / "tiny.py").exists()

    async def test_can_be_tried_again(self, bench):
        sets = bench.sets()
        await refusal(sets, "tiny")
        bench.shelf.put("tiny")

        assert await sets.ensure(("tiny",)) is not None

    async def test_tells_of_versions_that_do_not_fit_together(self, bench):
        bench.shelf.put("tiny", needs="other==1.0")
        bench.shelf.put("other", "1.0")
        bench.shelf.put("other", "2.0")

        failed = await refusal(bench.sets(), "tiny", "other==2.0")

        assert "conflict" in failed.extra["log"].lower()

    async def test_runs_no_code_of_a_source_package(self, bench, tmp_path):
        bench.shelf.put_source("tiny", f"open({str(tmp_path / 'ran')!r}, 'w')\n")

        await refusal(bench.sets(), "tiny")

        assert not (tmp_path / "ran").exists()

    async def test_ends_an_installation_that_takes_too_long(self, bench):
        async with SilentIndex() as silent:
            failed = await refusal(bench.sets(index=silent.index, timeout_s=2), "tiny")

        assert "more than 2 s" in str(failed)
        assert bench.processes() == []
        assert bench.left() == []

    async def test_ends_an_installation_when_the_server_ends(self, bench):
        async with SilentIndex() as silent:
            sets = bench.sets(index=silent.index)
            asking = asyncio.create_task(sets.ensure(("tiny",)))
            await until(lambda: silent.requests)

            await sets.close()

            assert bench.processes() == []
            assert bench.left() == []
            await asyncio.gather(asking, return_exceptions=True)

    async def test_keeps_the_end_of_a_long_log(self, bench):
        pip = bench.program("print('x' * 1_000_000 + 'the end'); raise SystemExit(1)")

        failed = await refusal(bench.sets(pip=pip, log_kb=4), "tiny")

        assert failed.extra["log"].endswith("the end")
        assert len(failed.extra["log"]) < 5000
        assert len(str(failed)) < 1200

    async def test_shows_no_password_of_an_index(self, bench):
        pip = bench.program("print('https://me:hunter2@index.test/'); raise SystemExit(1)")

        failed = await refusal(bench.sets(pip=pip), "tiny")

        assert "hunter2" not in failed.extra["log"] + str(failed)

    async def test_names_the_packages_that_are_refused_before_anything_runs(self, bench):
        with pytest.raises(PackageInvalid, match="--index-url"):
            await bench.sets().ensure(("--index-url=https://evil.test",))

        assert not bench.root.exists()


class TestWalls:
    async def test_the_installer_reads_no_secret_of_the_host(self, bench):
        found = await report(bench.sets(pip=bench.probe()))

        assert found["secret"] in {"FileNotFoundError", "PermissionError"}
        assert found["root"] in {"FileNotFoundError", "PermissionError"}

    async def test_the_installer_does_not_see_the_servers_environment(self, bench, monkeypatch):
        monkeypatch.setenv("PLANTED", "secret")

        found = await report(bench.sets(pip=bench.probe()))

        wanted = {"HOME", "LANG", "PIP_FIND_LINKS", "PIP_NO_INDEX", "TMPDIR"}
        assert set(found["environ"]) - {"LC_CTYPE"} == wanted
        assert found["server"] in {"FileNotFoundError", "PermissionError"}

    async def test_the_installer_writes_nowhere_else(self, bench):
        found = await report(bench.sets(pip=bench.probe()))

        assert found["own"] == "1"
        assert found["outside"].endswith("Error")
        assert not (bench.folder / "outside.txt").exists()

    async def test_the_installer_has_no_rights_and_reaches_no_process(self, bench):
        found = await report(bench.sets(pip=bench.probe()))

        assert found["signal"] in {"ProcessLookupError", "PermissionError"}
        assert found["rights"].endswith("Error")
        assert found["no_new_privs"] == 1

    async def test_a_wheel_cannot_write_beside_its_folder(self, bench):
        bench.shelf.put("tiny", **{"../../../evil.py": "evil", "/tmp/evil.py": "evil"})

        await refusal(bench.sets(), "tiny")

        assert list(bench.folder.rglob("evil.py")) == []

    async def test_a_link_in_a_set_is_refused(self, bench):
        link = (
            "import os, sys; os.symlink('/etc/passwd', sys.argv[sys.argv.index('--target')+1]+'/x')"
        )
        failed = await refusal(bench.sets(pip=bench.program(link)), "tiny")

        assert "neither a file nor a folder" in str(failed)
        assert bench.left() == []

    async def test_a_set_has_a_limit_of_bytes(self, bench):
        grow = "import os; open(os.environ['TMPDIR'] + '/x', 'wb').write(bytes(3 << 20))"

        failed = await refusal(bench.sets(pip=bench.program(grow), disk_mb=1), "tiny")

        assert "more than 1 MiB" in str(failed)

    async def test_a_set_has_a_limit_of_files(self, bench):
        grow = "import os\nfor n in range(99): open(f\"{os.environ['TMPDIR']}/{n}\", 'w')"

        failed = await refusal(bench.sets(pip=bench.program(grow), files=50), "tiny")

        assert "more than 50 files" in str(failed)

    async def test_no_process_of_an_installation_is_left(self, bench):
        daemon = (
            "import os, time\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    os.closerange(0, 9)\n"
            "    time.sleep(60)\n"
        )

        await bench.sets(pip=bench.program(daemon)).ensure(("tiny",))

        await until(lambda: bench.processes() == [])


class TestLandlockAlone:
    def test_installs_where_namespaces_are_refused(self, bench):
        bench.shelf.put("tiny")

        said = without_namespaces(bench, bench.pip)

        assert (Path(said.partition("FOLDER")[2].strip()) / "tiny.py").exists()

    def test_the_installer_reads_and_writes_nothing_of_the_host(self, bench):
        said = without_namespaces(bench, bench.probe())

        found = json.loads(said.partition("REPORT")[2].splitlines()[0])
        assert (found["secret"], found["root"]) == ("PermissionError", "PermissionError")
        assert (found["outside"], found["server"]) == ("PermissionError", "PermissionError")
        assert (found["own"], found["no_new_privs"]) == ("1", 1)
        assert found["rights"].endswith("Error")

    def test_nothing_is_run_where_there_is_no_wall_at_all(self, bench):
        said = without_namespaces(bench, bench.probe(), "no-landlock")

        assert "REFUSED Packages cannot be installed behind walls here." in said
        assert "REPORT" not in said
        assert bench.left() == []
