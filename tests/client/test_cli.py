"""The program, against the real server."""

import io
import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import ai_spine
from ai_spine import AISpine
from ai_spine._cli import Progress, main, plain
from tests.client.places import GREETING
from tests.house import KEY

pytestmark = pytest.mark.slow


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(server, monkeypatch, capsys):
    """Run the program against the server; the exit code, and both outputs."""
    monkeypatch.setenv("AI_SPINE_BASE_URL", server)
    monkeypatch.setenv("AI_SPINE_API_KEY", KEY)
    with AISpine(KEY, server) as client, suppress(ai_spine.ConflictError):
        client.create_flow(GREETING)

    def run_it(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run_it


@pytest.fixture
def failing(server) -> str:
    """A flow that fails: its prompt needs what is not given."""
    nodes = [{"id": "only", "kind": "llm", "config": {"prompt": "{missing}"}}]
    with AISpine(KEY, server) as client, suppress(ai_spine.ConflictError):
        client.create_flow({"flow_id": "failing", "name": "Failing", "nodes": nodes})
    return "failing"


class TestHealth:
    def test_says_state_and_version(self, run):
        code, said, _ = run("health")

        assert (code, said.split()[0]) == (0, "healthy")

    def test_says_when_nobody_is_there(self, run):
        code, said, told = run(
            "--base-url", "http://127.0.0.1:1", "--request-timeout", "1", "health"
        )

        assert (code, said) == (1, "")
        assert told.startswith("ai-spine: NetworkError: GET /health")

    def test_logs_its_requests_and_no_key(self, run, caplog):
        run("--debug", "health")

        assert "GET /health: 200" in caplog.text
        assert KEY not in caplog.text


class TestFlows:
    def test_prints_a_line_for_each(self, run):
        code, said, _ = run("flows")

        lines = {line.split()[0]: line for line in said.splitlines()}
        assert code == 0
        assert {"greeting", "review"} <= lines.keys()
        assert re.fullmatch(r"greeting +1\.0\.\d+ +Greeting", lines["greeting"])

    def test_prints_json(self, run):
        _, said, _ = run("flows", "--json")

        assert "greeting" in [flow["flow_id"] for flow in json.loads(said)]


class TestAgents:
    def test_prints_a_line_for_each(self, run, server):
        agent = {"agent_id": "shown", "name": "Shown", "endpoint": "http://127.0.0.1:9"}
        with AISpine(KEY, server) as client:
            client.create_agent(agent)
            code, said, _ = run("agents")
            client.delete_agent("shown")

        assert code == 0
        (line,) = [line for line in said.splitlines() if line.startswith("shown ")]
        assert re.fullmatch(r"shown +\w+ +Shown +http://127\.0\.0\.1:9", line)


class TestExecute:
    def test_prints_what_was_started(self, run):
        code, said, _ = run("execute", "greeting", "--input", '{"name": "Ada"}')

        assert code == 0
        assert json.loads(said)["status"] == "pending"

    def test_waits_and_prints_the_execution(self, run):
        code, said, told = run(
            "execute", "greeting", "--input", '{"name": "Ada"}', "--metadata", '{"a": 1}', "--wait"
        )

        execution = json.loads(said)
        assert code == 0
        assert execution["output_data"] == {"end": {"name": "Ada"}}
        assert execution["metadata"] == {"a": 1}
        assert "completed  2 of 2 nodes" in told.splitlines()[-1]

    def test_ends_with_its_own_code_when_the_execution_fails(self, run, failing):
        code, said, told = run("execute", failing, "--wait")

        assert code == 3
        assert json.loads(said)["status"] == "failed"
        assert told.splitlines()[-1].startswith("failed")

    def test_reads_the_input_from_a_file(self, run, tmp_path):
        (tmp_path / "input.json").write_text('{"name": "Bo"}')

        _, said, _ = run("execute", "greeting", "--input", f"@{tmp_path}/input.json", "--wait")

        assert json.loads(said)["input_data"] == {"name": "Bo"}

    def test_reads_the_input_from_its_own(self, run, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.StringIO('{"name": "Cy"}'))

        _, said, _ = run("execute", "greeting", "--input", "-", "--wait")

        assert json.loads(said)["input_data"] == {"name": "Cy"}

    @pytest.mark.parametrize("bad", ["{", "[]", "1", "@/nowhere/at/all", "[" * 100_000])
    def test_refuses_an_input_that_is_no_object(self, run, bad):
        code, said, told = run("execute", "greeting", "--input", bad)

        assert (code, said) == (2, "")
        assert "ValidationError: --input is no JSON" in told

    def test_starts_once_under_one_name(self, run):
        first = run("execute", "greeting", "--idempotency-key", "cli-1")
        second = run("execute", "greeting", "--idempotency-key", "cli-1")

        assert json.loads(first[1])["execution_id"] == json.loads(second[1])["execution_id"]

    def test_says_what_the_server_refused(self, run):
        code, _, told = run("execute", "nothing-of-this-name")

        assert code == 1
        assert "NotFoundError" in told
        assert "(request " in told


class TestWatch:
    def test_follows_to_the_end(self, run):
        started = json.loads(run("execute", "greeting")[1])

        code, said, told = run("watch", started["execution_id"])

        assert code == 0
        assert json.loads(said)["status"] == "completed"
        assert told.splitlines()[0].startswith("pending    0 of 2 nodes")

    def test_counts_without_a_total_when_the_flow_is_gone(self, run, server):
        with AISpine(KEY, server) as client:
            client.create_flow({**GREETING, "flow_id": "short-lived"})
            ended = client.execute_and_wait("short-lived", {}, interval=0.1)
            client.delete_flow("short-lived")

        code, _, told = run("watch", ended["execution_id"])

        assert code == 0
        assert "2 nodes" in told.splitlines()[-1]
        assert " of " not in told

    def test_says_when_there_is_nothing_to_follow(self, run):
        code, _, told = run("watch", "nothing")

        assert code == 1
        assert "NotFoundError" in told


class TestProgress:
    def test_is_one_line_on_a_terminal(self):
        terminal = Terminal()
        progress = Progress(terminal, 2)

        progress.show({"event": "status", "data": {"status": "running"}})
        progress.show({"event": "node", "data": {"node_id": "a", "status": "running"}})
        progress.show({"event": "node", "data": {"node_id": "a", "status": "skipped"}})
        progress.show({"event": "unheard-of", "data": {}})
        progress.end()

        shown = terminal.getvalue()
        lines = shown.split("\r\x1b[K")
        assert [line[:23] for line in lines[1:]] == ["running    0 of 2 nodes"] * 2 + [
            "running    1 of 2 nodes"
        ] * 2
        assert shown.endswith("s\n")

    def test_shows_nothing_that_moves_the_cursor(self):
        assert plain("a\x1b[2Jb\r\n\x9bc\u202ed") == "a\ufffd[2Jb\ufffd\ufffd\ufffdc\ufffdd"


class TestUsage:
    @pytest.mark.parametrize("arguments", [(), ("nothing",), ("execute",), ("watch", "a", "b")])
    def test_that_is_wrong_is_said(self, run, arguments):
        code, said, told = run(*arguments)

        assert (code, said) == (2, "")
        assert told.startswith("usage: ai-spine")

    def test_is_explained(self, run):
        code, said, _ = run("--help")

        assert code == 0
        for command in ("health", "flows", "agents", "execute", "watch"):
            assert f"    {command} " in said

    def test_says_the_version(self, run):
        assert run("--version")[:2] == (0, f"{ai_spine.__version__}\n")

    def test_takes_no_address_that_is_none(self, run):
        code, _, told = run("--base-url", "spine", "health")

        assert code == 2
        assert "base_url" in told

    def test_ends_quietly_when_it_is_interrupted(self, run, monkeypatch):
        def interrupt(_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(AISpine, "health_check", interrupt)

        assert run("health") == (130, "", "\n")

    def test_has_a_module_that_is_the_program(self):
        root = Path(ai_spine.__file__).parents[1]
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-m", "ai_spine", "--version"],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )

        assert (ended.returncode, ended.stdout) == (0, f"{ai_spine.__version__}\n")
