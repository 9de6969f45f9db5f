"""One script's life in a worker: its files, its source, what it prints and draws."""

import base64
import textwrap

import pytest

from tests.jail.desk import Desk


@pytest.fixture
def desk(tmp_path):
    with Desk(tmp_path) as opened:
        yield opened


def dedent(code: str) -> str:
    return textwrap.dedent(code).lstrip("\n")


class TestServe:
    def test_says_which_walls_hold_before_anything_else(self, desk):
        assert desk.hear("ready") == {"t": "ready", "walls": {"landlock": False}}

    def test_runs_a_script(self, desk):
        desk.run("print(1)")

        assert desk.out == "1\n"
        assert desk.ended == {
            "t": "done",
            "ok": True,
            "exit_code": 0,
            "error": None,
            "has_result": False,
            "result": None,
            "memory": {},
        }

    def test_ends_when_it_is_told_to(self, desk):
        desk.hear("ready")
        desk.send(t="close")

        assert desk.gone() == 0

    def test_ends_without_a_server(self, desk):
        desk.hear("ready")
        desk.socket.close()

        assert desk.process.wait(10) == 70

    def test_ends_without_a_server_while_it_waits_for_an_answer(self, desk):
        desk.hear("ready")
        desk.job("try: llm('x')\nexcept BaseException: pass\nwhile True: pass")
        desk.hear("llm")
        desk.socket.close()

        assert desk.process.wait(10) == 70

    def test_ends_on_a_job_that_is_none(self, desk):
        desk.hear("ready")
        desk.send(t="job")

        assert desk.gone() == 70
        assert "KeyError: 'code'" in desk.err


class TestFiles:
    def test_lie_where_the_script_runs(self, desk):
        desk.file("a.txt", "é".encode())
        desk.run("print(open('a.txt').read())")

        assert desk.out == "é\n"

    def test_come_in_pieces(self, desk):
        desk.file("a.bin", b"x" * 2**19, more=True)
        desk.file("a.bin", b"y" * 10)
        desk.file("b.bin", b"")
        desk.run("import os\nprint(os.path.getsize('a.bin'), os.path.getsize('b.bin'))")

        assert desk.out == f"{2**19 + 10} 0\n"

    def test_can_be_imported(self, desk):
        desk.file("own.py", b"answer = 42")
        desk.run("import own\nprint(own.answer)")

        assert desk.out == "42\n"

    @pytest.mark.parametrize("name", ["..", "../x", "/tmp/x", "a\0", "", "x" * 129, "a\\b"])
    def test_are_refused_with_a_name_that_is_a_path(self, desk, tmp_path, name):
        desk.file(name, b"x")
        desk.run("print('ran')")

        assert desk.ended["error"].startswith("A file of the execution could not be written: its")
        assert (desk.ended["ok"], desk.ended["exit_code"], desk.out) == (False, 1, "")
        assert list(tmp_path.iterdir()) == []

    def test_never_replace_what_is_there(self, desk, tmp_path):
        (tmp_path / "target").write_text("safe")
        (tmp_path / "link").symlink_to("target")
        desk.file("link", b"x")
        desk.run("pass")

        assert "File exists" in desk.ended["error"]
        assert (tmp_path / "target").read_text() == "safe"

    def test_are_refused_when_they_are_no_base64(self, desk):
        desk.send(t="file", name="a", data="abcde", more=False)
        desk.run("pass")

        assert desk.ended["error"].startswith("A file of the execution could not be written")

    def test_are_refused_when_they_are_not_complete(self, desk):
        desk.file("a", b"x", more=True)
        desk.run("pass")

        assert desk.ended["error"] == "A file of the execution came only in part."


class TestSource:
    @pytest.mark.parametrize(
        "code",
        [
            "",
            "# nothing",
            "\n\n",
            "\ufeff",
            "\ufeff# -*- coding: latin-1 -*-\nassert 'é' == '\\xe9'",
            "# -*- coding: unknown -*-\nassert 'é' == '\\xe9'",
            "if True:\n\tpass",
            "x = 1\r\nassert x == 1\r\n",
            "'''doc'''\nfrom __future__ import annotations\ndef f(x: undefined): pass",
            "def f(x: int): pass\nassert f.__annotations__ == {'x': int}",
            "#" * 250_000,
        ],
    )
    def test_is_run_as_python_runs_a_file(self, desk, code):
        desk.run(code)

        assert (desk.ended["ok"], desk.ended["error"]) == (True, None)

    def test_is_shown_where_it_is_no_python(self, desk):
        desk.run("x = 1\ny = = 2")

        assert desk.ended["error"] == (
            '  File "script.py", line 2\n    y = = 2\n        ^\nSyntaxError: invalid syntax'
        )

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("if True:\npass", "IndentationError: expected an indented block"),
            ("if True:\n\tx = 1\n        y = 2", "TabError: inconsistent use of tabs"),
            ("x = 'a\0b'", "source code string cannot contain null bytes"),
            ("(" * 10_000, "too many nested parentheses"),
            ("return 1", "SyntaxError: 'return' outside function"),
        ],
        ids=["indent", "tabs", "nul", "nested", "return"],
    )
    def test_that_is_no_python_is_an_error(self, desk, code, said):
        desk.run(code)

        assert desk.ended["ok"] is False
        assert said in desk.ended["error"]

    def test_is_a_module_that_can_be_looked_into(self, desk):
        code = """
            import inspect, pickle, sys
            class Point:
                x = 1
            assert pickle.loads(pickle.dumps(Point())).x == 1
            assert sys.modules["__main__"].Point is Point and __name__ == "__main__"
            assert sys.argv == ["script.py"]
            def f(): return 'found'
            print(inspect.getsource(f), end="")
        """
        desk.run(dedent(code))

        assert desk.out == "def f(): return 'found'\n"

    def test_may_use_an_event_loop(self, desk):
        desk.run(
            "import asyncio\nasync def f(): await asyncio.sleep(0); print('x')\nasyncio.run(f())"
        )

        assert desk.out == "x\n"


class TestOutput:
    def test_comes_from_everybody(self, desk):
        code = """
            import os, subprocess, sys
            print("python", end=" ")
            sys.stdout.flush()
            os.write(1, b"system ")
            subprocess.run(["echo", "child"])
            print("error", file=sys.stderr)
        """
        desk.run(dedent(code))

        assert (desk.out, desk.err) == ("python system child\n", "error\n")

    def test_can_say_anything(self, desk):
        desk.run("print('é\\0\\ud800\\x1b[1m')")

        assert desk.out == "é\0\\ud800\x1b[1m\n"

    def test_that_has_no_newline_comes_too(self, desk):
        desk.run("import sys\nprint('out', end='')\nsys.stderr.write('err')")

        assert (desk.out, desk.err) == ("out", "err")

    def test_of_a_stream_that_replaces_stdout_comes_too(self, desk):
        desk.run(
            "import sys\nprint('a', end='')\nsys.stdout = open(1, 'w', closefd=False)\nprint('b')"
        )

        assert sorted(desk.out) == ["\n", "a", "b"]

    def test_waits_in_the_pipe_until_it_is_read(self, desk):
        desk.run("print('x' * 10**7)")

        assert len(desk.out) == 10**7 + 1

    def test_has_no_input(self, desk):
        desk.run("input()")

        assert desk.ended["error"].endswith("EOFError: EOF when reading a line")

    def test_has_nothing_of_what_was_printed_before_the_script(self, tmp_path):
        with Desk(tmp_path, before="print('imported', end='')") as desk:
            desk.run("print('script')")

            assert desk.out == "script\n"


class TestFigures:
    PYPLOT = """
        import sys, types
        pyplot = types.ModuleType("matplotlib.pyplot")
        sys.modules["matplotlib"] = types.ModuleType("matplotlib")
        sys.modules["matplotlib.pyplot"] = pyplot
        class Figure:
            def __init__(self, number): self.number = number
            def savefig(self, file, format):
                if self.number == 7: raise ValueError("bad figure")
                file.write(f"{format} {self.number}".encode())
        pyplot.get_fignums = lambda: [3, 7, 9]
        pyplot.figure = Figure
    """

    def test_that_are_open_are_saved(self, desk):
        desk.hear("ready")
        desk.job(dedent(self.PYPLOT))
        saved = [desk.hear("artifact"), desk.hear("artifact")]
        desk.done()

        assert [(one["name"], base64.b64decode(one["data"])) for one in saved] == [
            ("figure-1.png", b"png 3"),
            ("figure-3.png", b"png 9"),
        ]
        assert desk.err == "figure-2.png was not saved: ValueError: bad figure\n"

    def test_do_not_replace_what_the_script_saved(self, desk):
        desk.hear("ready")
        desk.job(dedent(self.PYPLOT) + "save_artifact('figure-1.png', b'own')")
        saved = [desk.hear("artifact"), desk.hear("artifact")]
        desk.done()

        assert [one["name"] for one in saved] == ["figure-1.png", "figure-3.png"]
        assert base64.b64decode(saved[0]["data"]) == b"own"


class TestCopies:
    def test_of_one_interpreter_do_not_draw_the_same_numbers(self, tmp_path):
        before = (
            "import types; numbers = types.ModuleType('numpy.random'); numbers.drawn = 'same'; "
            "numbers.seed = lambda: setattr(numbers, 'drawn', 'other'); "
            "sys.modules['numpy.random'] = numbers"
        )
        with Desk(tmp_path, before=before) as desk:
            desk.run("import sys\nprint(sys.modules['numpy.random'].drawn)")

            assert desk.out == "other\n"
