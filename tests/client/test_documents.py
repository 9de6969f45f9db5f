"""What the docstrings, the README and the examples show, done with the real server."""

import ast
import asyncio
import doctest
import inspect
import io
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

import ai_spine
from ai_spine import AISpine, AsyncAISpine
from tests.client.places import GREETING
from tests.house import KEY

pytestmark = pytest.mark.slow

ROOT = Path(ai_spine.__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ADDRESS = "http://localhost:8000/spine"
PLACE_HOLDER = "isk_..."


def methods(kind: type) -> list[str]:
    return sorted(name for name in dir(kind) if not name.startswith("_"))


def endpoints(kind: type) -> list[str]:
    """The methods that call the server."""
    named = [name for name in methods(kind) if callable(getattr(kind, name))]
    return [name for name in named if name != "close"]


def docstring(kind: type, name: str) -> doctest.DocTest:
    text = inspect.getdoc(getattr(kind, name) if name else kind)
    return doctest.DocTestParser().get_doctest(text, {}, name or kind.__name__, None, 0)


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[AISpine]:
    """A client of a server with the flow and the agent that the docstrings speak of."""
    agent = {"agent_id": "helper", "name": "Helper", "endpoint": "http://127.0.0.1:9"}
    with AISpine(KEY, server) as opened:
        with suppress(ai_spine.ConflictError):
            opened.create_flow(GREETING)
        with suppress(ai_spine.ConflictError):
            opened.create_agent(agent)
        yield opened


@pytest.fixture
def names(client: AISpine, server: str) -> dict[str, Any]:
    return {**vars(ai_spine), "client": client, "api_key": KEY, "base_url": server}


class TestDocstrings:
    @pytest.mark.parametrize("name", ["", *endpoints(AISpine)])
    def test_show_what_happens(self, names, name):
        test = docstring(AISpine, name)
        test.globs = names
        told = io.StringIO()

        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        result = runner.run(test, out=told.write)

        assert result.attempted > 0
        assert result.failed == 0, told.getvalue()

    @pytest.mark.parametrize("name", ["", *endpoints(AsyncAISpine)])
    async def test_show_what_happens_when_it_is_awaited(self, client, names, name):
        test = docstring(AsyncAISpine, name)
        if not name:
            await asyncio.to_thread(doctest_in_thread, test, names)
            return

        async with AsyncAISpine(KEY, client.base_url) as awaited:
            names["client"] = awaited
            for example in test.examples:
                shown = await show(example.source, names)
                want = example.exc_msg or example.want
                assert doctest.OutputChecker().check_output(want, shown, doctest.ELLIPSIS), shown

    @pytest.mark.parametrize("kind", [AISpine, AsyncAISpine])
    @pytest.mark.parametrize("name", endpoints(AISpine))
    def test_say_what_goes_in_and_what_comes_out(self, kind, name):
        method = getattr(kind, name)
        text = inspect.getdoc(method)

        for argument in list(inspect.signature(method).parameters)[1:]:
            assert re.search(rf"^    {argument}: ", text, re.MULTILINE), argument
        for section in ("Returns:", "Raises:", "Example:"):
            assert f"\n{section}\n" in text
        for error in re.findall(r"^    (\w+Error): ", text, re.MULTILINE):
            assert error in ai_spine.__all__


class TestTwins:
    def test_have_the_same_methods(self):
        assert methods(AISpine) == methods(AsyncAISpine)

    @pytest.mark.parametrize("name", endpoints(AISpine))
    def test_take_the_same_arguments(self, name):
        one, other = getattr(AISpine, name), getattr(AsyncAISpine, name)

        assert inspect.signature(one).parameters == inspect.signature(other).parameters


class TestReadme:
    @pytest.mark.parametrize("number", [0, 1])
    def test_begins_with_what_works(self, server, capsys, number):
        with AISpine(KEY, server) as client:
            if number == 0:
                client.delete_flow("hello")
        program = BLOCKS[number].replace(ADDRESS, server).replace(PLACE_HOLDER, KEY)

        exec(compile(program, "README.md", "exec"), {})

        assert "completed" in capsys.readouterr().out

    def test_begins_within_ten_lines(self):
        assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 10

    def test_shows_values_that_there_are(self, client):
        hello = [{"id": "greeting", "kind": "llm", "config": {"prompt": "Hello {name}."}}]
        with suppress(ai_spine.ConflictError):
            client.create_flow({"flow_id": "hello", "name": "Hello", "nodes": hello})
        ended = client.execute_and_wait("hello", {"name": "Ada"}, interval=0.1)

        exec(compile(BLOCKS[2], "README.md", "exec"), {"client": client, **ended})

    @pytest.mark.parametrize("name", methods(AISpine))
    def test_names_every_method(self, name):
        assert re.search(rf"`{name}[`(]", README), name

    @pytest.mark.parametrize("name", endpoints(AISpine))
    def test_names_every_argument(self, name):
        signature = inspect.signature(getattr(AISpine, name))
        given = [p for p in signature.parameters.values() if p.name != "self"]
        shown = ", ".join(
            p.name if p.default is p.empty else f"{p.name}={p.default}"
            for p in given
            if p.kind is not p.KEYWORD_ONLY
        )
        named = [f"{p.name}={p.default}" for p in given if p.kind is p.KEYWORD_ONLY]
        shown += ", *, " + ", ".join(named) if named else ""

        assert f"`{name}({shown})`" in README

    @pytest.mark.parametrize("name", [n for n in ai_spine.__all__ if n[0].isupper()])
    def test_names_everything_that_is_public(self, name):
        assert re.search(rf"\b{name}\b", README), name


class TestExamples:
    SAY: ClassVar = {
        "basic_usage.py": ["The server is healthy", "Answer: Echo: Say hello to Ada."],
        "error_handling.py": [
            "Not there: ",
            "Correct it: flow_id is 1 to 100",
            "'node': ",
            "failed: ",
            "Out of reach: GET /health",
        ],
        "async_execution.py": ["rivers: article completed", "tides: completed"],
        "batch_processing.py": ["Never again. -> Echo: ", "4 executions in this batch."],
    }

    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
    def test_work_also_a_second_time(self, server, path):
        for _ in range(2):
            said = run_example(path, server)
            for words in self.SAY[path.name]:
                assert words in said

    def test_are_all_here(self):
        assert {path.name for path in EXAMPLES} == self.SAY.keys()


def run_example(path: Path, base_url: str) -> str:
    variables = {"AI_SPINE_BASE_URL": base_url, "AI_SPINE_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-W", "error", path],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def doctest_in_thread(test: doctest.DocTest, names: dict[str, Any]) -> None:
    """Run a docstring that opens a loop of its own."""
    test.globs = names
    assert doctest.DocTestRunner().run(test).failed == 0


async def show(source: str, names: dict[str, Any]) -> str:
    """What the prompt of asyncio's console would show."""
    code = compile(source, "docstring", "single", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with redirect_stdout(io.StringIO()) as shown:
        try:
            result = eval(code, names)
            if inspect.iscoroutine(result):
                await result
        except ai_spine.AISpineError as error:
            return traceback.format_exception_only(error)[-1]
    return shown.getvalue()
