"""What is shipped, in every interpreter that is here; and what others shipped, from the index."""

import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

import ai_spine
from ai_spine import AISpine
from tests.client.environments import THIS, VERSIONS, environment, interpreter, uv, visit
from tests.client.places import GREETING
from tests.house import KEY

pytestmark = pytest.mark.slow

ROOT = Path(ai_spine.__file__).parents[1]
HERE = Path(__file__).parent
WHEEL_MAX_BYTES = 100_000
OLDEST_HTTPX = "httpx==0.24.0"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    done = uv("build", "--quiet", "--no-create-gitignore", "--out-dir", folder, ROOT)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Make an environment with the wheel, one for each interpreter."""

    @cache
    def make(python: Path) -> Path:
        return environment(python, tmp_path_factory.mktemp("installed") / "env", wheel)

    return make


@pytest.fixture(scope="module")
def spine(server: str) -> str:
    """The address of a server with the flows that visitors need."""
    nodes = [{"id": "only", "kind": "llm", "config": {"prompt": "{missing}"}}]
    with AISpine(KEY, server) as client:
        for flow in (GREETING, {"flow_id": "failing", "name": "Failing", "nodes": nodes}):
            with suppress(ai_spine.ConflictError):
                client.create_flow(flow)
    return server


class TestBuild:
    def test_makes_a_small_wheel_of_the_package_alone(self, wheel):
        names = zipfile.ZipFile(wheel).namelist()

        assert wheel.stat().st_size < WHEEL_MAX_BYTES
        assert {name.split("/")[0] for name in names} == {
            "ai_spine",
            f"ai_spine_sdk-{ai_spine.__version__}.dist-info",
        }
        assert "ai_spine/py.typed" in names

    def test_makes_a_wheel_that_says_what_it_needs(self, wheel):
        archive = zipfile.ZipFile(wheel)
        folder = f"ai_spine_sdk-{ai_spine.__version__}.dist-info"
        metadata = archive.read(f"{folder}/METADATA").decode()

        assert f"Version: {ai_spine.__version__}\n" in metadata
        assert "Requires-Python: >=3.7\n" in metadata
        assert metadata.count("Requires-Dist: ") == 1
        assert "Requires-Dist: httpx>=0.24,<1\n" in metadata
        assert "License-Expression: MIT\n" in metadata
        assert (
            "ai-spine = ai_spine._cli:main" in archive.read(f"{folder}/entry_points.txt").decode()
        )

    def test_makes_a_source_archive_with_the_examples(self, built):
        (path,) = built.glob("*.tar.gz")
        with tarfile.open(path) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}

        assert {"README.md", "LICENSE", "pyproject.toml", "examples/basic_usage.py"} <= names

    def test_passes_the_index_s_check(self, built):
        if importlib.util.find_spec("twine") is None:
            pytest.skip("twine is not installed.")
        files = [str(path) for path in built.iterdir() if path.suffix in {".whl", ".gz"}]

        done = subprocess.run(
            [sys.executable, "-m", "twine", "check", "--strict", *files],
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("PASSED") == 2


class TestInterpreters:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_take_the_wheel_and_do_the_journey(self, version, installed, spine):
        python = installed(interpreter(version))

        said = visit(python, HERE / "visit.py", spine, KEY)

        assert said.startswith(f"Python {version}, httpx 0.")

    def test_do_it_with_the_oldest_httpx(self, wheel, spine, tmp_path):
        python = environment(THIS, tmp_path / "env", wheel, OLDEST_HTTPX)

        assert visit(python, HERE / "visit.py", spine, KEY).endswith("httpx 0.24.0")

    def test_have_the_program(self, installed):
        python = installed(interpreter("{}.{}".format(*sys.version_info[:2])))

        said = subprocess.run(
            [python.parent / "ai-spine", "--version"], capture_output=True, text=True, check=False
        )

        assert said.stdout == f"{ai_spine.__version__}\n"


class TestPublished:
    """``ai-spine-sdk`` as others published it: other code, the same contract."""

    def test_does_its_journey_here(self, spine, tmp_path):
        python = environment(THIS, tmp_path / "env", "ai-spine-sdk<3")

        said = visit(python, HERE / "visit_published.py", spine, KEY)

        assert said.startswith("ai-spine-sdk 2.")
