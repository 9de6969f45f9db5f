"""Scripts in the real jail, over HTTP: what runs, how it ends, what it is given and leaves."""

import asyncio
import re

import pytest
import pytest_asyncio

from tests.modules.sandbox.desks import open_desk

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEAF = """
import signal, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True: time.sleep(1)
"""
COOKIE = "# -*- coding: latin-1 -*-\nset_result('\u00e4')"
FUTURE = "from __future__ import annotations\ndef f(x: nothing): pass"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tmp_path_factory):
    data = tmp_path_factory.mktemp("house") / "data"
    async with open_desk(data, SANDBOX_REPLICAS="4") as opened:
        yield opened


class TestTimeout:
    async def test_stops_what_does_not_end(self, desk):
        codes = ["while True: pass", "import time; time.sleep(10**9)", "10**10**8", DEAF]

        reads = await asyncio.gather(
            *(desk.run(f"print('begun', flush=True)\n{code}", timeout=1) for code in codes)
        )

        assert {(read["status"], read["stdout"]) for read in reads} == {("timeout", "begun\n")}
        assert {read["error"] for read in reads} == {"The script ran longer than 1 s."}
        assert all(1000 <= read["execution_time_ms"] < 2000 for read in reads)
        assert await desk.works()


class TestSource:
    @pytest.mark.parametrize(
        "code",
        ["", "# only a comment", "\ufeffset_result(1)", "if 1:\n\tset_result(1)", COOKIE, FUTURE],
        ids=["empty", "comment", "mark", "tab", "cookie", "future"],
    )
    async def test_runs_what_python_runs(self, desk, code):
        read = await desk.run(code)

        assert (read["status"], read["error"]) == ("completed", None)

    @pytest.mark.parametrize(
        ("code", "error"),
        [
            ("def f(:", "SyntaxError"),
            ("if 1:\nprint(1)", "IndentationError"),
            ("x = 1\0", "null bytes"),
            ("(" * 10_000, "SyntaxError|MemoryError"),
            ("print('a'", "SyntaxError"),
        ],
        ids=["colon", "indent", "null", "brackets", "open"],
    )
    async def test_says_what_is_wrong_with_it(self, desk, code, error):
        read = await desk.run(code)

        assert read["status"] == "error"
        assert re.search(error, read["error"])
        assert await desk.works()


class TestExit:
    @pytest.mark.parametrize("code", ["exit()", "import sys; sys.exit(0)", "raise SystemExit"])
    async def test_without_a_code_is_success(self, desk, code):
        read = await desk.run(f"set_result(1)\n{code}")

        assert (read["status"], read["result"], read["error"]) == ("completed", 1, None)

    @pytest.mark.parametrize(
        ("code", "error"),
        [
            ("import sys; sys.exit(3)", "3"),
            ("import sys; sys.exit('no luck')", "no luck"),
            ("import os; os._exit(7)", "exit code 7"),
            ("import os; os.abort()", "ended by signal"),
            ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
            ("def f(): f()\nf()", "RecursionError"),
            ("raise KeyboardInterrupt", "KeyboardInterrupt"),
            ("class E(Exception):\n def __str__(self): 1/0\nraise E", "E"),
            ("1 / 0", "ZeroDivisionError: division by zero"),
        ],
    )
    async def test_in_any_other_way_is_an_error_that_says_how(self, desk, code, error):
        read = await desk.run(f"print('before', flush=True)\n{code}")

        assert (read["status"], read["stdout"]) == ("error", "before\n")
        assert error in read["error"]
        assert await desk.works()

    async def test_an_error_names_the_line(self, desk):
        read = await desk.run("x = 1\n\nraise ValueError('here')")

        assert "line 3" in read["error"]
        assert "raise ValueError('here')" in read["error"]


class TestMemoryLimit:
    async def test_an_error_says_that_it_was_memory(self, desk):
        read = await desk.run("x = bytearray(2 * 1024**3)")

        assert read["status"] == "error"
        assert "emory" in read["error"]
        assert await desk.works()


class TestResult:
    async def test_the_last_one_wins(self, desk):
        assert (await desk.run("set_result(1); set_result('two')"))["result"] == "two"

    @pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "object()", "10**400"])
    async def test_that_is_no_json_is_an_error(self, desk, value):
        read = await desk.run(f"set_result({value})")

        assert (read["status"], read["result"]) == ("error", None)

    async def test_that_is_too_large_is_an_error(self, desk):
        read = await desk.run("set_result('x' * 5_000_000)")

        assert (read["status"], read["result"]) == ("error", None)

    async def test_may_be_as_large_as_the_project_allows(self, desk):
        read = await desk.run("set_result('x' * 1_000_000)")

        assert len(read["result"]) == 1_000_000

    async def test_keeps_half_characters_from_breaking_it(self, desk):
        read = await desk.run(r"set_result('\ud800x\0')")

        assert read["status"] == "completed"
        assert read["result"][1] == "x"


class TestSettings:
    async def test_are_there_to_be_read(self, desk):
        code = "set_result([settings.get('A'), settings.get('B'), list(settings.keys())])"

        read = await desk.run(code, settings={"A": "1"})

        assert read["result"] == ["1", None, ["A"]]

    async def test_cannot_be_written(self, desk):
        read = await desk.run("settings['A'] = '2'", settings={"A": "1"})

        assert read["status"] == "error"


class TestMemory:
    async def test_is_read_and_what_was_set_comes_back(self, desk):
        code = """
before = memory.get('user', 'name')
memory.set('user', 'name', before + '!')
set_result([before, memory.get('user', 'name'), memory.get('user', 'nothing')])
"""
        read = await desk.run(code, memory={"user.name": "Ada", "user.age": 36})

        assert read["result"] == ["Ada", "Ada!", None]
        assert read["memory_updates"] == {"user.name": "Ada!"}

    async def test_takes_odd_keys(self, desk):
        read = await desk.run("memory.set('__proto__', 'constructor', [1])")

        assert read["memory_updates"] == {"__proto__.constructor": [1]}

    @pytest.mark.parametrize("end", ["1 / 0", "import os; os._exit(0)"])
    async def test_is_not_updated_by_a_script_that_does_not_complete(self, desk, end):
        read = await desk.run(f"memory.set('a', 'b', 1)\n{end}")

        assert (read["status"], read["memory_updates"]) == ("error", {})

    async def test_that_is_too_much_is_an_error_of_the_script(self, desk):
        read = await desk.run("memory.set('a', 'b', 'x' * 2_000_000)")

        assert (read["status"], read["memory_updates"]) == ("error", {})

    async def test_of_two_at_once_is_each_ones_own(self, desk):
        code = "memory.set('a', 'b', memory.get('a', 'b') + 1)"

        reads = await asyncio.gather(*(desk.run(code, memory={"a.b": n}) for n in (1, 5)))

        assert [read["memory_updates"] for read in reads] == [{"a.b": 2}, {"a.b": 6}]


class TestSuccession:
    async def test_nothing_of_one_is_seen_by_the_next(self, desk):
        leaves = """
import builtins, os, sys, json
builtins.left = 1
os.environ['LEFT'] = '1'
open('/tmp/left', 'w').write('1')
open('left', 'w').write('1')
json.dumps = None
print = None
sys.modules['left'] = sys
"""
        looks = """
import builtins, os, sys, json
set_result([hasattr(builtins, 'left'), 'LEFT' in os.environ, os.path.exists('/tmp/left'),
            os.path.exists('left'), json.dumps is None, 'left' in sys.modules])
print('still prints')
"""
        for _ in range(4):
            await desk.run(leaves)

        read = await desk.run(looks)

        assert read["result"] == [False] * 6
        assert read["stdout"] == "still prints\n"

    async def test_no_two_draw_the_same_random_numbers(self, desk):
        draws = "import random, uuid; set_result([random.random(), str(uuid.uuid4())])"

        reads = [await desk.run(draws) for _ in range(4)]

        assert len({str(read["result"][0]) for read in reads}) == 4
        assert len({read["result"][1] for read in reads}) == 4
