"""Scripts that will not end, leave something behind, or go on while they should wait."""

import asyncio
import os
import signal

import pytest
import pytest_asyncio

from insula_jail import watch
from tests.modules.sandbox.besieged import besieged, is_ready, keepers, processes, unharmed
from tests.modules.sandbox.desks import Desk
from tests.modules.sandbox.jails import TIERS
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEASURED_S = 0.5
# What the zygote's own looks at a worker may take meanwhile.
FROZEN_LIMIT_MS = 100
DEAF = """
import signal, time
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
"""
STUBBORN = """
import time
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""
BUSY = ("while True: pass", "10**10**8", "import re\nre.match('(a+)+$', 'a' * 64 + 'b')")
IDLE = (
    "import time\ntime.sleep(10**9)",
    f"{DEAF}while True: time.sleep(60)",
    STUBBORN,
    "import atexit, time\natexit.register(time.sleep, 10**9)",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(10**9,)).start()",
)
# A second process that is nobody's child, in a session of its own, and has come to be.
DAEMON = """
import os, signal, time
told, telling = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.write(telling, b'1')
    time.sleep(600)
os.wait()
os.read(told, 1)
"""
NOHUP = """
import subprocess
subprocess.Popen(['nohup', 'sleep', '600'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""
STOPPED = """
import os, signal
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(pid, os.WUNTRACED)
"""
ZOMBIES = """
import os
for n in range(20):
    if os.fork() == 0:
        os._exit(0)
"""
# Is never long the same process: each goes on in a child and ends.
HOPPER = """
import os
if os.fork() == 0:
    while True:
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            pass
"""
THREAD = """
import threading
def burn():
    while True: pass
threading.Thread(target=burn, daemon=True).start()
"""
# Clocks of the kernel that would send the signal to go on, when the script has been stopped.
CLOCKS = f"""
import ctypes, signal
signal.signal(signal.SIGCONT, lambda *_: None)
libc = ctypes.CDLL(None)
event = (ctypes.c_int * 16)(0, 0, signal.SIGCONT, 0)
for n in range(20):
    clock = ctypes.c_void_p()
    if libc.timer_create(1, event, ctypes.byref(clock)) == 0:
        libc.timer_settime(clock, 0, (ctypes.c_long * 4)(0, 5_000_000, 0, 300_000_000), None)
{THREAD}"""
CHILD = """
import os
if os.fork() == 0:
    while True: pass
"""


@pytest.fixture(params=TIERS, scope="module")
def tier(request):
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tier):
    async with besieged(tier, SANDBOX_REPLICAS=str(len(IDLE))) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def safe(desk):
    async with unharmed(desk):
        yield


def used_ms() -> int:
    """The processor time of everything that this process has started, those at rest included."""
    found = [watch.read_process(pid) for pid in processes()]
    return sum(one.ticks for one in found if one) * 1000 // os.sysconf("SC_CLK_TCK")


def stopped() -> list[int]:
    found = [(pid, watch.read_process(pid)) for pid in processes()]
    return [pid for pid, one in found if one and one.state == "T"]


async def grown_ms() -> int:
    """How much processor time is used while somebody waits."""
    loop = asyncio.get_running_loop()
    since, before = loop.time(), used_ms()
    await until(lambda: loop.time() - since > MEASURED_S)
    return used_ms() - before


@pytest.mark.usefixtures("safe")
class TestTimeout:
    @pytest.mark.parametrize("attack", BUSY)
    async def test_ends_one_that_is_busy_within_a_second_of_its_limit(self, desk, attack):
        read = await desk.run(attack, timeout=1)

        assert (read["status"], read["error"]) == ("timeout", "The script ran longer than 1 s.")
        assert 1000 <= read["execution_time_ms"] < 2000

    async def test_ends_those_that_wait_within_a_second_of_their_limit(self, desk):
        reads = await asyncio.gather(*(desk.run(attack, timeout=1) for attack in IDLE))

        assert [read["status"] for read in reads] == ["timeout"] * len(IDLE)
        assert all(1000 <= read["execution_time_ms"] < 2000 for read in reads)


@pytest.mark.usefixtures("safe")
class TestLeftovers:
    """Where a script may have processes, none outlives it; elsewhere it has none."""

    @pytest.mark.parametrize(
        "attack",
        [DAEMON, NOHUP, STOPPED, ZOMBIES, HOPPER],
        ids=["daemon", "nohup", "stopped", "zombies", "hopper"],
    )
    async def test_are_ended_with_the_script(self, desk, tier, attack):
        read = await desk.run(f"{attack}\nset_result('left')")

        assert read["status"] == ("completed" if tier == "A" else "error"), read["error"]

    async def test_of_one_that_is_killed_are_ended_too(self, desk, tier):
        read = await desk.run(f"{DAEMON}os.kill(os.getpid(), signal.SIGSEGV)\nos.abort()")

        assert read["status"] == "error"


@pytest.mark.usefixtures("safe")
class TestPause:
    """Nothing of a script runs while a model is asked."""

    @pytest.mark.parametrize(
        "attack",
        [THREAD, CHILD, HOPPER, DAEMON],
        ids=["thread", "child", "hopper", "daemon"],
    )
    async def test_lets_nothing_run(self, desk, tier, attack):
        if tier == "B" and "fork" in attack:
            attack = THREAD * 3
        execution_id, _ = await desk.asking(f"{attack}\nset_result(llm.complete('?'))")

        grown = await grown_ms()

        assert grown < FROZEN_LIMIT_MS
        await desk.respond(execution_id, "go on")
        read = await desk.waited(execution_id)
        assert (read["error"], read["result"]) == (None, "go on")

    async def test_that_a_clock_would_undo_is_kept_or_the_end_of_the_script(self, desk):
        execution_id, _ = await desk.asking(f"{CLOCKS}\nllm.complete('?')")

        grown = await grown_ms()

        assert grown < FROZEN_LIMIT_MS
        assert (await desk.cancel(execution_id)).json()["status"] in ("error", "timeout")


class TestLoss:
    """A script that cannot hear the answer any more has ended, whoever is still asked."""

    async def test_of_a_paused_worker_is_an_error_soon(self, desk):
        async with unharmed(desk):
            execution_id, _ = await desk.asking("llm.complete('?')")
            (worker,) = stopped()

            os.kill(worker, signal.SIGKILL)

            read = await desk.is_in(execution_id, "error")
            late = await desk.respond(execution_id, "late")
        assert read["error"] == "The worker was ended by signal 9 (SIGKILL)."
        assert late.status_code == 409

    async def test_of_patience_is_not_time_of_the_script(self, desk):
        await desk.project("impatient", limits={"llm_wait_s": 1})
        execution_id, _ = await desk.asking("llm.complete('?')", project="impatient")

        read = await desk.is_in(execution_id, "timeout")

        assert read["execution_time_ms"] < 1000
        await desk.post("/projects/impatient/down")

    async def test_of_the_template_is_an_error_of_paused_scripts_soon(self, desk):
        await until(lambda: is_ready(desk))
        execution_id, _ = await desk.asking("llm.complete('?')")

        await lose_template(desk)

        read = await desk.is_in(execution_id, "error")
        assert read["error"] == "The worker was ended by signal 9 (SIGKILL)."
        assert read["llm_request"] is None
        assert await desk.works()

    async def test_of_the_template_is_an_error_of_running_scripts(self, desk):
        execution_id = await desk.begun()

        await lose_template(desk)

        read = await desk.is_in(execution_id, "error")
        assert read["stdout"] == "begun\n"
        assert await desk.works()


async def lose_template(desk: Desk) -> None:
    """Kill what all workers come from, and see that none is left."""
    await until(lambda: len(keepers()) == 1)
    before = processes()
    (keeper,) = keepers()
    keeper.kill()
    await until(lambda: not any(is_alive(pid) for pid in before))


def is_alive(pid: int) -> bool:
    found = watch.read_process(pid)
    return found is not None and found.state not in "ZX"
