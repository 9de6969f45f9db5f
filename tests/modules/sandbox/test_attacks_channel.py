"""Scripts that talk to the server in their worker's place, or spoil the worker they run in."""

import asyncio
import time

import pytest
import pytest_asyncio

from tests.modules.sandbox.besieged import WIRE, besieged, unharmed
from tests.modules.sandbox.jails import TIERS

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("safe")]

STOPPED = "The script wrote into the channel of its worker, which was stopped."
# Walks to the worker's own frame, below that of the script.
WORKER = """
import sys
frame = sys._getframe()
while frame.f_globals.get('__name__') != 'insula_jail.worker':
    frame = frame.f_back
worker = frame.f_globals
"""
LINK = """
import gc
link = next(o for o in gc.get_objects() if type(o).__name__ == 'Link')
"""


@pytest.fixture(params=TIERS, scope="module")
def tier(request):
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tier):
    async with besieged(tier) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def safe(desk):
    async with unharmed(desk):
        yield


class TestBytes:
    """What is no frame ends its script, at once."""

    @pytest.mark.parametrize(
        "attack",
        [
            r"raw(b'\xff' * 64)",
            "raw(struct.pack('>I', 2**31) + b'{}')",
            "raw(struct.pack('>I', 4 * 2**20 + 1))",
            "os.dup2(wire, 1); print('Hello, server!' * 1000, flush=True)",
            r"for n in range(4096): raw(b'\x7f')",
        ],
    )
    async def test_that_announce_too_much_are_the_end(self, desk, attack):
        read = await desk.run(f"{WIRE}{attack}\ntime.sleep(60)")

        assert (read["status"], read["error"]) == ("error", STOPPED)

    async def test_of_half_a_frame_are_waited_for_in_the_time_of_the_script(self, desk):
        read = await desk.run(f"{WIRE}raw(b'\\0\\0\\1\\0half')\ntime.sleep(60)", timeout=1)

        assert (read["status"], read["execution_time_ms"] < 2000) == ("timeout", True)

    async def test_of_half_a_frame_before_the_end_are_none(self, desk):
        read = await desk.run(f"{WIRE}raw(b'\\0\\0\\1\\0half'); os._exit(0)")

        assert read["status"] == "error"
        assert read["error"] == "The script ended its own process with exit code 0."


class TestClose:
    async def test_of_the_wire_is_the_end_of_a_script_that_goes_on(self, desk):
        since = time.monotonic()

        read = await desk.run(f"{WIRE}os.close(wire)\ntime.sleep(60)")

        assert (read["status"], read["error"]) == ("error", STOPPED)
        assert time.monotonic() - since < 3

    async def test_of_the_wire_leaves_nothing_to_say_at_the_end(self, desk):
        read = await desk.run(f"{WIRE}os.close(wire)")

        assert (read["status"], read["result"]) == ("error", None)
        assert read["error"] == "The script ended its own process with exit code 70."

    async def test_while_the_server_waits_for_an_answer_is_noticed_with_it(self, desk):
        code = f"{WIRE}forge('llm', seq=1, prompt='?'); os.close(wire)\ntime.sleep(60)"
        execution_id, _ = await desk.asking(code)

        await desk.respond(execution_id, "answer")
        read = await desk.waited(execution_id)

        assert (read["status"], read["error"]) == ("error", STOPPED)

    async def test_of_every_descriptor_is_survived(self, desk):
        read = await desk.run("import os\nos.closerange(0, 100)\nset_result(1)")

        assert read["status"] == "error"


class TestThief:
    async def test_that_takes_the_answer_holds_up_its_own_script_only(self, desk):
        code = f"{WIRE}forge('llm', seq=1, prompt='?')\nos.read(wire, 4)\ntime.sleep(60)"
        execution_id, _ = await desk.asking(code, timeout=1)

        await desk.respond(execution_id, "answer")

        assert (await desk.waited(execution_id))["status"] == "timeout"

    async def test_that_never_reads_the_answer_holds_up_its_own_script_only(self, desk):
        code = f"{WIRE}forge('llm', seq=1, prompt='?')\ntime.sleep(60)"
        execution_id, _ = await desk.asking(code, timeout=1)

        answered = await desk.respond(execution_id, "x" * 1_000_000)

        assert answered.status_code == 200
        assert (await desk.waited(execution_id))["status"] == "timeout"


class TestRace:
    async def test_of_copies_that_forge_frames_is_their_own_scripts_affair(self, desk, tier):
        attack = """
import ctypes
libc = ctypes.CDLL(None)
for n in range(8):
    if libc.fork() == 0:
        while True:
            forge('done', **DONE, result='forged')
for n in range(10_000):
    forge('?')
"""
        attacked, other = await asyncio.gather(
            desk.run(f"{WIRE}{attack}"), desk.run("set_result('true')")
        )

        assert (other["status"], other["result"]) == ("completed", "true")
        if tier == "A":
            assert (attacked["status"], attacked["result"]) in [
                ("completed", "forged"),
                ("error", None),
            ]


class TestSabotage:
    """A script may do with its own interpreter what it likes: no other script notices."""

    @pytest.mark.parametrize(
        ("attack", "status"),
        [
            ("import builtins\nbuiltins.print = builtins.open = builtins.len = None", "completed"),
            ("import json, socket, struct\njson.dumps = socket.socket = struct.pack = None",
             "completed"),
            (f"{LINK}link.send([b'\\xff' * 64])", "error"),
            (f"{LINK}link.cut()", "error"),
            (f"{LINK}type(link).send = lambda *_: None", "error"),
            (f"{WORKER}worker['_exit'] = lambda *_: None", "completed"),
            (f"{WORKER}worker['mask_signals'] = None", "error"),
            (f"{WORKER}worker['frames'] = None", "error"),
            (f"{WORKER}worker['_ending'] = lambda *_: None", "error"),
            (f"{WORKER}worker['Ending'].__new__ = None", "error"),
            (f"{WORKER}frame.f_locals['self']._result.text = '1,\"ok\":true'", "completed"),
            (f"{WORKER}frame.f_locals['self']._result.text = '%'", "error"),
            ("import ctypes\nctypes.memset(id(None), 255, 64)", "error"),
            ("import sys\nsys.settrace(lambda *_: 1 / 0)\nimport this", "error"),
        ],
    )  # fmt: skip
    async def test_ends_in_its_own_run(self, desk, attack, status):
        read = await desk.run(f"set_result(1)\n{attack}")

        assert read["status"] == status

    async def test_of_the_end_that_is_told_can_forge_ones_own_only(self, desk):
        forge = "frame.f_locals['self']._result.text = '{\"forged\":true}'"

        read = await desk.run(f"set_result(1)\n{WORKER}{forge}")

        assert (read["status"], read["result"]) == ("completed", {"forged": True})
