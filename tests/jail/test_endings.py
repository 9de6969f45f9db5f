"""How a script ends in a worker, whatever it does to end otherwise."""

import signal
import textwrap

import pytest

from insula_jail.worker import ERROR_LIMIT_BYTES
from tests.jail.desk import Desk

HEAD = 'Traceback (most recent call last):\n  File "script.py", line '


@pytest.fixture
def desk(tmp_path):
    with Desk(tmp_path) as opened:
        yield opened


def dedent(code: str) -> str:
    return textwrap.dedent(code).lstrip("\n")


class TestEnd:
    @pytest.mark.parametrize(
        "code",
        [
            "exit()",
            "quit()",
            "import sys; sys.exit()",
            "import sys; sys.exit(0)",
            "raise SystemExit",
            "import sys; sys.exit(False)",
        ],
    )
    def test_is_good_where_a_script_says_so(self, desk, code):
        desk.run(code + "\nprint('never')")

        assert (desk.ended["ok"], desk.ended["exit_code"], desk.ended["error"]) == (True, 0, None)
        assert desk.out == ""

    @pytest.mark.parametrize(
        ("code", "exit_code"),
        [("exit(3)", 3), ("import sys; sys.exit(3)", 3), ("raise SystemExit(-1)", 255)],
    )
    def test_has_the_code_that_a_script_gives_it(self, desk, code, exit_code):
        desk.run(code)

        assert (desk.ended["ok"], desk.ended["exit_code"]) == (False, exit_code)
        assert desk.ended["error"].startswith("SystemExit: ")

    def test_prints_what_a_script_says_at_its_exit(self, desk):
        desk.run("import sys; sys.exit('x: y')")

        assert (desk.ended["exit_code"], desk.ended["error"]) == (1, "SystemExit: x: y")
        assert desk.err == "x: y\n"

    def test_shows_the_script_s_frames_only(self, desk):
        desk.run("def f(x):\n    return 1 / x\n\nf(0)")

        assert desk.ended["exit_code"] == 1
        assert desk.ended["error"].startswith(f"{HEAD}4, in <module>\n    f(0)\n")
        assert "line 2, in f\n    return 1 / x\n" in desk.ended["error"]
        assert desk.ended["error"].endswith("\nZeroDivisionError: division by zero")
        assert desk.ended["error"].count("File") == 2

    def test_shows_no_frame_of_the_worker_below_the_script_s(self, desk):
        desk.run(
            "try:\n    set_result(object())\nexcept TypeError as e:\n    raise ValueError from e"
        )

        assert desk.ended["error"].count("File") == desk.ended["error"].count('"script.py"') == 2
        assert "direct cause" in desk.ended["error"]

    def test_follows_an_exception_group(self, desk):
        desk.run("raise ExceptionGroup('many', [ValueError('one'), KeyError('two')])")

        assert "ValueError: one" in desk.ended["error"]
        assert "KeyError: 'two'" in desk.ended["error"]

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("raise KeyboardInterrupt", "KeyboardInterrupt"),
            ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
            ("class E(Exception):\n  def __str__(s): raise KeyError\nraise E", "str() failed>"),
            (
                "class E(SystemExit):\n  def __str__(s): raise KeyError\nraise E('x')",
                "str() failed>",
            ),
            ("raise MemoryError", "MemoryError"),
            ("raise GeneratorExit", "GeneratorExit"),
        ],
    )
    def test_tells_any_exception(self, desk, code, said):
        desk.run(code)

        assert desk.ended["ok"] is False
        assert desk.ended["error"].endswith(said)

    def test_has_the_exit_code_of_an_interrupted_process(self, desk):
        desk.run("raise KeyboardInterrupt")

        assert desk.ended["exit_code"] == 130

    def test_keeps_head_and_tail_of_a_long_error(self, desk):
        desk.run("raise ValueError('é' * 10**6 + 'tail')")

        error = desk.ended["error"]
        assert error.startswith(HEAD)
        assert error.endswith("étail")
        assert "bytes left out" in error
        assert 60_000 < len(error.encode()) <= ERROR_LIMIT_BYTES

    @pytest.mark.parametrize(
        ("code", "status"),
        [
            ("import os; os._exit(7)", 7),
            ("import os; os.abort()", -signal.SIGABRT),
            ("import os; os.kill(os.getpid(), 11)", -signal.SIGSEGV),
        ],
    )
    def test_of_the_process_itself_is_not_announced(self, desk, code, status):
        desk.hear("ready")
        desk.job("print('before')\n" + code)

        assert desk.gone() == status
        assert desk.out == "before\n"

    def test_comes_after_threads_and_exit_handlers(self, desk):
        code = """
            import atexit, threading, time
            go = threading.Event()
            def work():
                go.wait()
                print("thread")
                memory.set("a", "thread", 1)
            threading.Thread(target=work).start()
            atexit.register(lambda: (print("handler"), set_result("last")))
            go.set()
            print("main")
        """
        desk.run(dedent(code))

        assert sorted(desk.out.split()[:2]) == ["main", "thread"]
        assert desk.out.endswith("handler\n")
        assert (desk.ended["result"], desk.ended["memory"]) == ("last", {"a.thread": 1})

    def test_does_not_wait_for_daemons(self, desk):
        desk.run(
            "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
        )

        assert desk.ended["ok"]

    def test_does_not_wait_for_a_question_of_a_daemon(self, desk, tmp_path):
        code = """
            import os, threading, time
            threading.Thread(target=llm, args=("x",), daemon=True).start()
            while not os.path.exists("asked"): time.sleep(0.001)
        """
        desk.hear("ready")
        desk.job(dedent(code))
        desk.hear("llm")
        (tmp_path / "asked").touch()

        assert desk.done()["ok"]

    def test_is_good_when_only_a_thread_exits(self, desk):
        desk.run(
            "import threading\ndef f(): raise SystemExit(3)\nt = threading.Thread(target=f)\n"
            "t.start(); t.join()"
        )

        assert (desk.ended["ok"], desk.err) == (True, "")

    def test_survives_exit_handlers_that_fail(self, desk):
        desk.run("import atexit\ndef f(): raise SystemExit(3)\natexit.register(f)\nset_result(1)")

        assert (desk.ended["ok"], desk.ended["result"]) == (True, 1)

    def test_does_not_run_the_finalizers_of_what_is_left(self, desk):
        desk.run("class Evil:\n  def __del__(s):\n    while True: pass\nx = Evil()")

        assert desk.ended["ok"]

    def test_of_a_copy_of_the_process_is_not_the_script_s(self, desk):
        code = """
            import os
            if os.fork() == 0:
                print("copy")
                raise SystemExit(4)
            print(os.waitstatus_to_exitcode(os.wait()[1]))
        """
        desk.run(dedent(code))

        assert desk.out == "copy\n4\n"
        assert desk.ended["ok"]


class TestSabotage:
    """Whatever a script does to its interpreter, its end is told, or its process is at an end."""

    @pytest.mark.parametrize(
        "code",
        [
            "import sys; sys.stdout.close(); sys.stderr.close()",
            "import sys; sys.stdout = sys.stderr = None",
            "import sys; del sys.stdout, sys.stderr, sys.__stdout__",
            "import builtins\nfor n in list(vars(builtins)): builtins.__dict__[n] = None",
            "import builtins\nbuiltins.__dict__.clear()",
            "import json; json.dumps = json.loads = json.JSONEncoder = json.encoder = None",
            "import json.encoder as e\nfor n in list(vars(e)): setattr(e, n, None)",
            "import os\nfor n in list(vars(os)): setattr(os, n, None)",
            "import struct, binascii, socket\nstruct.Struct = socket.socket = None",
            "import threading, atexit\nthreading._shutdown = atexit._run_exitfuncs = None",
            "import sys\nsys.modules.clear()",
            "import sys\nfor m in list(sys.modules.values()):\n"
            "  if m is not sys and m.__name__ != '__main__': vars(m).clear()",
            "import sys; sys.setrecursionlimit(5)",
            "import sys\ndef f(*_): raise ValueError\nsys.setprofile(f)",
            "import sys\ndef f(*_): raise ValueError\nsys.settrace(f)",
            "import traceback; traceback.TracebackException = None",
            "import linecache; linecache.cache = None",
            "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)",
            "import gc; gc.disable(); gc.callbacks.append(1)",
            "globals().clear()",
            "import airlock\nvars(airlock).clear()",
        ],
    )
    def test_does_not_keep_the_end_from_being_told(self, desk, code):
        desk.run("set_result(1)\nmemory.set('a', 'b', 2)\n" + code)

        assert (desk.ended["result"], desk.ended["memory"]) == (1, {"a.b": 2})

    def test_does_not_keep_an_error_from_being_told(self, desk):
        desk.run("import builtins\nbuiltins.len = builtins.isinstance = builtins.str = None\n1 / 0")

        assert desk.ended["error"].endswith("ZeroDivisionError: division by zero")

    def test_of_the_traceback_module_leaves_the_bare_error(self, desk):
        desk.run("import traceback\ndel traceback.TracebackException.format\n1 / 0")

        assert desk.ended["error"] == "ZeroDivisionError: division by zero"

    def test_of_handlers_that_fire_all_the_time_ends_somehow(self, desk):
        desk.hear("ready")
        desk.job(
            "import signal\ndef f(*_): raise ValueError\nsignal.signal(signal.SIGALRM, f)\n"
            "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\nwhile True: pass"
        )

        while desk.listen() is not None:
            pass

        assert desk.process.wait(10) is not None

    @pytest.mark.parametrize("closed", ["range(3, 100)", "range(100)"])
    def test_of_the_wire_ends_the_process(self, desk, closed):
        desk.hear("ready")
        desk.job(f"import os\nfor fd in {closed}:\n  try: os.close(fd)\n  except OSError: pass")

        assert desk.gone() == 70

    def test_leaves_no_module_of_the_worker_within_reach(self, desk):
        desk.run("import sys\nprint([n for n in sys.modules if 'insula' in n], sys.path[0] != '')")

        assert desk.out == "[] True\n"
