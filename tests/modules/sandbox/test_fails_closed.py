"""Hosts that lack a wall, or only pretend to have it: less is offered, or nothing, never silently.

Each is this machine with one call of its kernel taken away, in a process of its own.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from insula_jail import machine
from tests.house import prepare
from tests.modules.sandbox.jails import passable_folder

REPOSITORY = Path(__file__).parents[3]
# Eight houses begin at once, on a machine that is busy with other tests.
LIMIT_S = 100
ERROR, SUCCESS = 0x0005_0026, 0x0005_0000
# Answers one call of the kernel in its place, here and in all processes that begin here.
REFUSE = """
import struct
from insula_jail import machine, seccomp
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, {number}), (0x06, 0, 0, {answer}), (0x06, 0, 0, 0x7FFF0000)]
seccomp.install(b"".join(struct.pack("=HBBI", *step) for step in steps))
"""
# This process says of itself that it runs on another machine.
STRANGE = """
import ctypes
ctypes.CDLL(None).personality(0x0008)
"""
# Opens a house in each of these processes at once, and writes down what it answers.
HOUSES = """
import asyncio, json, os, signal, sys
from pathlib import Path
from app.asgi import Insula
from tests.house import LEAN, environment
from tests.modules.sandbox.desks import open_desk

async def ask(folder):
    async with open_desk(folder / "data", SANDBOX_RUNNER="jail") as desk:
        found = (await desk.get("/capabilities")).json()
        answer = await desk.post("/execute?wait=1", {"code": "set_result(6 * 7)"})
    (folder / "answers").write_text(json.dumps([found, answer.status_code, answer.json()]))

# What the first house imports, all others have.
Insula(environment(Path(sys.argv[2]), FEATURE_SANDBOX="on", **LEAN)).door()
for name, host in json.loads(sys.argv[1]).items():
    if os.fork() == 0:
        signal.alarm(int(sys.argv[3]))
        exec(host)
        asyncio.run(ask(Path(sys.argv[2]) / name))
        os._exit(0)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


def without(call: str, answer: int = ERROR) -> str:
    return REFUSE.format(number=machine.this_machine().number(call), answer=answer)


HOSTS = {
    "landlock": without("landlock_create_ruleset"),
    "landlock that does not hold": without("landlock_restrict_self", SUCCESS),
    "seccomp": without("seccomp"),
    "seccomp that does not hold": without("seccomp", SUCCESS),
    "architecture": STRANGE,
    "unshare": without("unshare"),
    "mount": without("mount"),
    "pivot_root": without("pivot_root"),
}


@pytest.fixture(scope="module")
def answers():
    """What a house on each host says that it offers, and how it answers a script."""
    with passable_folder() as folder:
        # Here, for it may take threads, which a process that forks must not have had.
        for name in HOSTS:
            prepare(folder / name / "data")
        command = [sys.executable, "-c", HOUSES, json.dumps(HOSTS), str(folder), str(LIMIT_S)]
        subprocess.run(command, cwd=REPOSITORY, timeout=LIMIT_S + 10, check=True)
        return {name: json.loads((folder / name / "answers").read_text()) for name in HOSTS}


class TestHost:
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("landlock", "landlock: "),
            ("landlock that does not hold", "host_files: does not hold: host_files, landlock"),
            ("seccomp", "seccomp: "),
            ("seccomp that does not hold", "network: does not hold: network, ptrace"),
            ("architecture", "architecture: no system call numbers for i686"),
        ],
    )
    def test_that_lacks_a_wall_of_every_tier_runs_nothing_and_says_why(self, answers, name, words):
        found, status, answer = answers[name]

        assert (found["tier"], status) == ("none", 503)
        assert found["reason"].count(f"Tier A: {words}") == 1
        assert found["reason"].count(f"Tier B: {words}") == 1
        assert answer["detail"] == found["reason"]

    @pytest.mark.parametrize("name", ["unshare", "mount", "pivot_root"])
    def test_that_lacks_namespaces_or_roots_runs_scripts_in_the_next_tier(self, answers, name):
        found, status, answer = answers[name]

        assert (found["tier"], status, answer["result"]) == ("B", 200, 42)
        walls = {wall["name"]: wall for wall in found["walls"]}
        assert (walls["namespaces"]["is_up"], bool(walls["namespaces"]["why"])) == (False, True)
