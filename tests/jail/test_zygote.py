"""The zygote over its real protocol: fork, freeze, kill, the watchdog, and its own end."""

import signal
from pathlib import Path

import pytest

from tests.jail.zygotes import (
    KINDS,
    Zygotes,
    descendants,
    is_alive,
    kill,
    workers_of,
    zygote,
)
from tests.waiting import until

NAMESPACED = [kind for kind in KINDS if kind.startswith("A")]
# Where it makes no difference who the server is, and a zygote of its own is needed.
ONE_OF_EACH = ["A-root", "B-user"]
# Longer than the scheduler's and the accounting's ticks, spent by a worker of its own.
PASS_TIME = "import time; time.sleep(0.2)"
BURN = "while True: pass"
BURN_IN_FOUR = "import os\nos.fork()\nos.fork()\nwhile True: pass"
SHARED_BY_FOUR = """
import os
held = bytearray(60 << 20)
waiting = []
for _ in range(3):
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.read(ours, 1)
        os._exit(0)
    waiting.append(theirs)
import time; time.sleep(0.5)
for end in waiting:
    os.write(end, b"x")
    os.wait()
set_result("done")
"""


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def zygotes():
    with Zygotes() as started:
        yield started


@pytest.fixture
def jail(kind, zygotes):
    """A zygote without workers that other tests have used and will use."""
    yield zygotes.of(kind)
    zygotes.of(kind).settle()


@pytest.fixture
def mortal(kind):
    with zygote(kind) as started:
        yield started


def fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def ticks(pid: int) -> int:
    return int(fields(pid)[11]) + int(fields(pid)[12])


def states(pids: set[int]) -> set[str]:
    return {fields(pid)[0] for pid in pids}


class TestFork:
    def test_a_worker_runs_a_script(self, jail):
        worker = jail.ready()

        said = worker.run("print('hello'); set_result(6 * 7)")

        assert (said["ok"], said["result"]) == (True, 42)
        assert worker.printed() == "hello\n"

    def test_two_see_nothing_of_each_other(self, jail):
        leave = "import os, random; open('left', 'w'); os.environ['LEFT'] = '1'; "
        look = "set_result([sorted(os.listdir('.')), 'LEFT' in os.environ, random.random()])"

        first = jail.ready(1).run(leave + look)["result"]
        second = jail.ready(2).run("import os, random; " + look)["result"]

        assert (first[0], second[0], second[1]) == (["left"], [], False)
        assert first[2] != second[2]

    @pytest.mark.parametrize("kind", ONE_OF_EACH)
    def test_random_numbers_differ_where_the_zygote_imported_them(self, kind):
        draw = "import random; set_result(random.random())"

        with zygote(kind, preload=("random",)) as jail:
            drawn = {jail.ready(number).run(draw)["result"] for number in range(1, 4)}

        assert len(drawn) == 3

    def test_exit_and_quit_are_there_without_site(self, jail):
        said = jail.ready().run("set_result([repr(exit)[:3], repr(quit)[:3]])\nexit(3)")

        assert (said["exit_code"], said["result"]) == (3, ["Use", "Use"])

    def test_numbers_that_are_unknown_are_passed_over(self, jail):
        for order in ("kill", "watch", "freeze", "thaw"):
            jail.tell(t=order, id=99)

        assert jail.ready().run("set_result(1)")["result"] == 1

    @pytest.mark.parametrize(
        "code",
        [
            "import os; os._exit(7)",
            "import ctypes; ctypes.string_at(0)",
            "import os; os.closerange(0, 64)",
            "import os; os.abort()",
        ],
        ids=["exit", "segfault", "close", "abort"],
    )
    def test_whatever_one_does_the_next_one_works(self, jail, code):
        jail.ready(1).start(code)
        ended = jail.hear()

        assert (ended["t"], ended["id"]) == ("gone", 1)
        assert jail.ready(2).run("set_result(1)")["result"] == 1


class TestKill:
    def test_ends_the_worker_and_says_so(self, jail):
        jail.ready().start(BURN)

        jail.tell(t="kill", id=1)

        ended = jail.hear()
        assert (ended["id"], ended["signal"], ended["reason"]) == (1, signal.SIGKILL, "")
        assert workers_of(jail) == set()

    @pytest.mark.parametrize("kind", NAMESPACED)
    def test_ends_all_its_processes_first(self, jail):
        worker = jail.ready()
        worker.run(
            "import os, signal\n"
            "for _ in range(3):\n"
            "    if os.fork() == 0:\n"
            "        os.setsid()\n"
            "        for number in range(1, 32):\n"
            "            if number not in (9, 19): signal.signal(number, signal.SIG_IGN)\n"
            "        os.close(3)\n"
            "        while True: pass\n"
        )

        jail.tell(t="kill", id=1)

        assert jail.hear()["t"] == "gone"
        assert workers_of(jail) == set()

    def test_reaches_the_frozen(self, jail):
        jail.ready().start(BURN)
        jail.tell(t="freeze", id=1)
        jail.hear()

        jail.tell(t="kill", id=1)

        assert jail.hear()["t"] == "gone"


class TestFreeze:
    @pytest.mark.parametrize(
        ("kind", "code"),
        [
            *((kind, f"import threading\nthreading.Thread(target=lambda: exec('{BURN}')).start()")
              for kind in KINDS),
            *((kind, BURN_IN_FOUR) for kind in NAMESPACED),
        ],
    )  # fmt: skip
    def test_stops_every_process_until_it_is_thawed(self, jail, code):
        jail.ready(1).start(code)
        burning = workers_of(jail)
        jail.tell(t="freeze", id=1)
        assert jail.hear() == {"t": "frozen", "id": 1}
        frozen = workers_of(jail)
        before = {pid: ticks(pid) for pid in frozen}

        jail.ready(2).run(PASS_TIME)

        assert burning <= frozen
        assert {pid: ticks(pid) for pid in frozen} == before
        assert states(frozen) == {"T"}

    async def test_a_thawed_one_goes_on(self, jail):
        jail.ready().start(BURN)
        (pid,) = workers_of(jail)
        jail.tell(t="freeze", id=1)
        jail.hear()
        before = ticks(pid)

        jail.tell(t="thaw", id=1)

        assert jail.hear() == {"t": "thawed", "id": 1}
        await until(lambda: ticks(pid) > before)


class TestWatch:
    @pytest.mark.parametrize("kind", ["A-user"])
    def test_memory_that_processes_share_counts_once(self, kind):
        with zygote(kind, memory_mb=100) as jail:
            assert jail.ready(1).run(SHARED_BY_FOUR)["result"] == "done"

    @pytest.mark.parametrize("kind", ONE_OF_EACH)
    def test_cpu_time_ends_a_script(self, kind):
        with zygote(kind, cpu_s=1) as jail:
            jail.ready(1).start(BURN)
            ended = jail.hear()

            assert (ended["id"], ended["reason"]) == (1, "cpu")
            assert ended["cpu_ms"] >= 900

    @pytest.mark.parametrize("kind", ["A-user"])
    def test_cpu_time_is_that_of_all_processes_together(self, kind):
        with zygote(kind, cpu_s=1) as jail:
            jail.ready(1).start(BURN_IN_FOUR)
            ended = jail.hear()

            assert ended["reason"] == "cpu"
            assert 900 <= ended["cpu_ms"] < 2000

    def test_one_file_has_a_limit(self, jail):
        said = jail.ready().run("open('big', 'wb').write(bytes(9 << 20))")

        assert "File too large" in said["error"]

    @pytest.mark.parametrize("kind", NAMESPACED)
    def test_processes_have_a_limit_of_their_own(self, jail):
        fork = (
            "import os\n"
            "made = 0\n"
            "try:\n"
            "    while made < 100:\n"
            "        if os.fork() == 0:\n"
            "            os.close(3); import time; time.sleep(60)\n"
            "        made += 1\n"
            "except BlockingIOError: set_result(made)"
        )

        first = jail.ready(1).run(fork)["result"]
        second = jail.ready(2).run(fork)["result"]

        assert first == second == 15


class TestEnd:
    @pytest.mark.parametrize("who", ["keeper", "zygote"])
    async def test_no_worker_outlives_its_zygote(self, mortal, who):
        for number in (1, 2):
            mortal.ready(number).start(BURN)
        below = descendants(mortal.process.pid)
        (zygote_pid,) = below - workers_of(mortal)

        kill(mortal.process.pid if who == "keeper" else zygote_pid)

        mortal.process.wait(5)
        await until(lambda: not any(is_alive(pid) for pid in below), within_s=2)

    @pytest.mark.parametrize("kind", ONE_OF_EACH)
    async def test_closing_the_control_socket_ends_everything(self, mortal):
        mortal.ready().start(BURN)
        below = descendants(mortal.process.pid)

        mortal.close_control()

        assert mortal.process.wait(5) == 0
        await until(lambda: not any(is_alive(pid) for pid in below), within_s=2)

    @pytest.mark.parametrize("kind", ONE_OF_EACH)
    def test_it_closes_when_told_to(self, mortal):
        mortal.ready().start(BURN)

        mortal.tell(t="close")

        assert mortal.process.wait(5) == 0


class TestOpen:
    @pytest.mark.parametrize("kind", ONE_OF_EACH)
    def test_a_module_that_cannot_be_imported_is_told_with_its_error(self, kind):
        with zygote(kind, preload=("json", "no_such_module")) as jail:
            assert jail.first["t"] == "failed"
            assert "No module named 'no_such_module'" in jail.first["why"]

    @pytest.mark.parametrize("kind", ONE_OF_EACH)
    def test_what_was_imported_is_there_for_every_worker(self, kind):
        with zygote(kind, preload=("statistics",)) as jail:
            said = jail.ready().run("import sys; set_result('statistics' in sys.modules)")

        assert said["result"] is True

    @pytest.mark.parametrize("kind", ["A-user"])
    @pytest.mark.parametrize("target", ["/tmp/packages", "/proc/packages", "/dev/packages"])
    def test_nothing_is_bound_where_a_worker_has_its_own(self, kind, target):
        with zygote(kind, binds=(("/usr", target),)) as jail:
            assert (jail.first["t"], jail.first["wall"]) == ("refused", "root")
            assert target in jail.first["why"]

    @pytest.mark.parametrize("kind", ["A-root"])
    def test_a_folder_is_read_where_it_was_bound(self, kind):
        with zygote(kind, binds=(("/usr/share", "/opt/packages"),)) as jail:
            said = jail.ready().run(
                "import os; set_result(os.listdir('/opt/packages') == os.listdir('/usr/share'))"
            )

        assert said["result"] is True

    def test_its_own_memory_is_told(self, jail):
        assert 1000 < jail.first["base_kb"] < 100_000

    @pytest.mark.parametrize("kind", ["A-root"])
    def test_every_worker_has_a_user_of_its_own(self, jail):
        for number in (1, 2):
            jail.ready(number)
        status = [Path(f"/proc/{pid}/status").read_text() for pid in workers_of(jail)]

        uids = {text.split("Uid:")[1].split()[0] for text in status}
        assert uids == {"500001", "500002"}
