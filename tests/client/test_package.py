"""What the package shows, and what it costs to have it."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ai_spine

ROOT = Path(ai_spine.__file__).parent
FILES = sorted(ROOT.glob("*.py"))
IMPORT_MAX_S = 0.3
PUBLIC = [
    "APIError",
    "AISpine",
    "AISpineError",
    "Agent",
    "AsyncAISpine",
    "AuthenticationError",
    "ConflictError",
    "DEFAULT_BASE_URL",
    "Execution",
    "ExecutionError",
    "ExecutionEvent",
    "Flow",
    "HealthStatus",
    "InsufficientCreditsError",
    "Metrics",
    "NetworkError",
    "NodeResult",
    "NotFoundError",
    "RateLimitError",
    "TimeoutError",
    "User",
    "ValidationError",
    "__version__",
]
CLIENT = [
    "api_key",
    "base_url",
    "cancel_execution",
    "check_credits",
    "close",
    "create_agent",
    "create_flow",
    "debug",
    "delete_agent",
    "delete_flow",
    "execute_and_wait",
    "execute_flow",
    "get_agent",
    "get_current_user",
    "get_execution",
    "get_execution_results",
    "get_flow",
    "get_health_details",
    "get_metrics",
    "get_status",
    "health_check",
    "iter_executions",
    "iter_flows",
    "iter_messages",
    "list_active_agents",
    "list_agents",
    "list_executions",
    "list_flow_versions",
    "list_flows",
    "list_messages",
    "list_my_agents",
    "list_my_flows",
    "max_retries",
    "stream_execution",
    "test_agent",
    "timeout",
    "update_flow",
    "wait_for_execution",
]


class TestPackage:
    def test_shows_these_names_and_no_others(self):
        modules = {path.stem for path in FILES}
        shown = {name for name in vars(ai_spine) if not name.startswith("_")} - modules

        assert sorted(ai_spine.__all__) == sorted(PUBLIC)
        assert shown == set(PUBLIC) - {"__version__"}

    @pytest.mark.parametrize("kind", [ai_spine.AISpine, ai_spine.AsyncAISpine])
    def test_has_clients_with_these_methods(self, kind):
        assert [name for name in dir(kind) if not name.startswith("_")] == CLIENT

    def test_has_two_public_files(self):
        assert {path.stem for path in FILES if path.stem[0] != "_"} == {"exceptions", "models"}

    def test_is_typed(self):
        assert (ROOT / "py.typed").exists()

    def test_has_one_version(self):
        project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]

        assert project["version"] == ai_spine.__version__
        assert project["dependencies"] == ["httpx>=0.24,<1"]

    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
    def test_is_written_for_the_oldest_python(self, path):
        ast.parse(path.read_text(), feature_version=(3, 7))

    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
    def test_knows_the_wire_only(self, path):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        named = [n.module for n in nodes if isinstance(n, ast.ImportFrom)]
        named += [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]

        foreign = {name.split(".")[0] for name in named} - sys.stdlib_module_names
        assert foreign <= {"ai_spine", "httpx"}


class TestImport:
    def test_is_quick(self):
        """The time of the processor: others may be busy here."""
        program = (
            "import time; began = time.process_time(); import ai_spine, sys;"
            "print(time.process_time() - began); assert 'httpx' not in sys.modules"
        )

        took_s = [float(self.run(program)) for _ in range(3)]

        assert min(took_s) < IMPORT_MAX_S

    def test_says_nothing(self):
        assert self.run("import ai_spine") == ""

    def run(self, program: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=ROOT.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout


class TestTexts:
    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
    def test_say_what_a_file_is_for(self, path):
        assert ast.get_docstring(ast.parse(path.read_text()))
