"""A container's first process, here as an ordinary one: the wire in front, a worker behind it."""

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time

import psutil
import pytest

from insula_jail import frames, landlock
from tests.jail.desk import FOLDER
from tests.waiting import until

WITHIN_S = 20.0
LIMITS = {
    "wall_s": 60,
    "cpu_s": 20,
    "memory_mb": 256,
    "processes": 32,
    "files": 64,
    "file_mb": 8,
    "disk_mb": 16,
    "inodes": 1000,
}
LAUNCH = (
    f"import sys; sys.path.insert(0, {FOLDER!r}); from insula_jail.supervisor import main; main()"
)

pytestmark = pytest.mark.skipif(
    landlock.version() == 0, reason="needs a kernel with Landlock for the walls of the worker"
)


class Wire:
    """The server's end of a supervisor's stdin and stdout."""

    def __init__(self, folder, **plan) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                "-X",
                "utf8",
                "-B",
                "-c",
                LAUNCH,
                json.dumps({**LIMITS, **plan}),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
        )
        self._splitter = frames.Splitter(frames.MAX_OUT)
        self._found = []

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *exc_info) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.stderr.close()

    def send(self, **frame) -> None:
        frames.write(self.process.stdin.fileno(), frames.encode(frame, frames.MAX_IN))

    def listen(self):
        deadline = time.monotonic() + WITHIN_S
        while not self._found:
            assert time.monotonic() < deadline, "the supervisor says nothing"
            fd = self.process.stdout.fileno()
            if select.select([fd], [], [], 0.2)[0]:
                data = os.read(fd, 1 << 16)
                if not data:
                    return None
                self._found += [frames.decode(one) for one in self._splitter.feed(data)]
        frame = self._found.pop(0)
        if frame["t"] in ("out", "err"):
            frame["data"] = base64.b64decode(frame["data"])
        return frame

    def run(self, code):
        """All frames of a script, and of its end."""
        assert self.listen()["t"] == "ready"
        self.send(t="job", code=code)
        return self.rest()

    def rest(self):
        return list(iter(self.listen, None))


def printed(said, kind):
    return b"".join(frame["data"] for frame in said if frame["t"] == kind)


@pytest.fixture
def wire(tmp_path):
    with Wire(tmp_path) as opened:
        yield opened


class TestMain:
    def test_says_which_walls_are_up(self, wire):
        assert wire.listen() == {
            "t": "ready",
            "walls": {"limits": True, "capabilities": True, "landlock": True, "seccomp": True},
        }

    def test_passes_on_what_is_printed_the_end_and_that_the_worker_is_gone(self, wire):
        said = wire.run("import sys\nprint('é', end='')\nsys.stderr.write('bad')\nset_result(1)")

        assert printed(said, "out") == "é".encode()
        assert printed(said, "err") == b"bad"
        assert [frame["t"] for frame in said[-2:]] == ["done", "gone"]
        assert (said[-2]["result"], said[-1]["code"], said[-1]["signal"]) == (1, 0, None)
        assert wire.process.wait(WITHIN_S) == 0

    def test_says_what_the_worker_has_used(self, wire):
        gone = wire.run("x = bytearray(64 * 2**20)\nfor n in range(3 * 10**6): pass")[-1]

        assert gone["peak_kb"] > 64 * 1024
        assert gone["cpu_ms"] >= 10

    def test_passes_on_output_before_what_came_after_it(self, wire):
        code = "import os\nos.system('echo child')\nprint('x' * 50_000, end='')\nllm('why?')"
        wire.listen()
        wire.send(t="job", code=code)
        said = [wire.listen()]
        while said[-1]["t"] != "llm":
            said.append(wire.listen())
        wire.send(t="llm_reply", seq=1, text="so")

        assert printed(said, "out") == b"child\n" + b"x" * 50_000
        assert [frame["t"] for frame in wire.rest()] == ["done", "gone"]

    def test_hands_files_to_the_worker(self, wire):
        wire.send(t="file", name="a", data=base64.b64encode(b"x" * 300_000).decode(), more=False)

        assert printed(wire.run("print(len(open('a').read()))"), "out") == b"300000\n"

    def test_imports_before_the_walls_and_says_nothing_of_it_on_the_wire(self, tmp_path):
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "early.py").write_text("print('imported')\ntext = open('/etc/hosts')")
        with Wire(tmp_path, paths=[str(tmp_path / "site")], preload=["early"]) as wire:
            said = wire.run("import sys\nprint('early' in sys.modules)")

            assert printed(said, "out") == b"True\n"
            assert b"imported" in wire.process.stderr.read()

    def test_ends_with_the_reason_in_the_log_when_an_import_fails(self, tmp_path):
        with Wire(tmp_path, preload=["no_such_module"]) as wire:
            said = wire.rest()

            assert [(frame["t"], frame["code"]) for frame in said] == [("gone", 1)]
            assert b"ModuleNotFoundError: No module named 'no_such_module'" in (
                wire.process.stderr.read()
            )

    @pytest.mark.parametrize(
        ("code", "ended_by"),
        [("import os; os.abort()", signal.SIGABRT), ("while True: pass", signal.SIGXCPU)],
    )
    def test_says_which_signal_ended_the_worker(self, tmp_path, code, ended_by):
        with Wire(tmp_path, cpu_s=1) as wire:
            gone = wire.run("print('before')\n" + code)[-1]

        assert (gone["t"], gone["code"], gone["signal"]) == ("gone", None, ended_by)

    def test_says_how_a_worker_ended_that_closed_its_wire(self, wire):
        said = wire.run("import os\nos.closerange(3, 60)\nprint('still')\nos._exit(5)")

        assert [frame["t"] for frame in said] == ["out", "gone"]
        assert said[-1]["code"] == 5

    def test_kills_a_worker_that_announces_too_large_a_frame(self, wire):
        code = (
            "import os\nfor fd in range(3, 60):\n"
            "  try: os.write(fd, b'\\xff' * 8)\n  except OSError: pass\nwhile True: pass"
        )
        said = wire.run(code)

        assert [(frame["t"], frame["signal"]) for frame in said] == [("gone", signal.SIGKILL)]

    async def test_leaves_no_process_behind(self, wire):
        code = "import subprocess\nprint(subprocess.Popen(['sleep', '1000']).pid, flush=True)"
        said = wire.run(code)

        pid = int(printed(said, "out"))
        await until(lambda: not psutil.pid_exists(pid) or _is_dead(pid))


class TestClose:
    async def test_ends_worker_and_supervisor(self, wire):
        wire.listen()
        worker = psutil.Process(wire.process.pid).children()[0]
        wire.send(t="job", code="while True: pass")
        wire.send(t="close")

        assert wire.process.wait(WITHIN_S) == 0
        await until(lambda: not psutil.pid_exists(worker.pid) or _is_dead(worker.pid))

    def test_comes_with_the_end_of_the_stream_too(self, wire):
        wire.listen()
        wire.process.stdin.close()

        assert wire.process.wait(WITHIN_S) == 0

    def test_comes_with_the_signal_that_an_engine_sends(self, wire):
        wire.listen()
        wire.process.terminate()

        assert wire.process.wait(WITHIN_S) == 0


class TestBackPressure:
    async def test_makes_a_flood_wait_in_its_pipe(self, wire):
        wire.listen()
        wire.send(t="job", code="import os\nwhile True: os.write(1, b'x' * 65536)")
        worker = psutil.Process(wire.process.pid).children()[0]
        await until(lambda: _sleeps(worker) and _sleeps(wire.process))
        before = psutil.Process(wire.process.pid).memory_info().rss

        for _ in range(200):
            wire.listen()

        after = psutil.Process(wire.process.pid).memory_info().rss
        assert after - before < 8 * 2**20

    def test_hears_the_server_while_it_takes_nothing(self, wire):
        wire.listen()
        wire.send(t="job", code="import os\nwhile True: os.write(1, b'x' * 65536)")
        wire.send(t="close")

        assert wire.process.wait(WITHIN_S) == 0


def _sleeps(process) -> bool:
    return psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING


def _is_dead(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
