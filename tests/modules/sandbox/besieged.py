"""A house whose sandbox is attacked: in one tier, and unharmed afterwards."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import psutil
import pytest

from insula_jail import watch
from tests.modules.sandbox.desks import Desk, open_desk
from tests.modules.sandbox.jails import Tier, passable_folder
from tests.waiting import until

# Finds the worker's end of its wire, as any script can, and says anything over it.
WIRE = """
import json, os, stat, struct, time

def find():
    for fd in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                return fd
        except OSError:
            pass

wire = find()

def raw(data):
    while data:
        data = data[os.write(wire, data):]

def say(*frames):
    raw(b''.join(struct.pack('>I', len(f)) + f for f in frames))

def forge(t, **more):
    say(json.dumps({'t': t, **more}).encode())

DONE = {'ok': True, 'exit_code': 0, 'error': None, 'has_result': True, 'memory': {}}
"""


@asynccontextmanager
async def besieged(tier: Tier | Literal["auto"], **variables: str) -> AsyncIterator[Desk]:
    """A caller of a house in this tier; the test is skipped, with the reason, where it has none."""
    chosen = {"SANDBOX_RUNNER": "jail", "SANDBOX_JAIL_TIER": tier, **variables}
    with passable_folder() as folder:
        async with open_desk(folder / "data", **chosen) as desk:
            found = (await desk.get("/capabilities")).json()
            if tier not in ("auto", found["tier"]):
                pytest.skip(found["reason"])
            await until(lambda: is_ready(desk))
            yield desk


async def is_ready(desk: Desk) -> bool:
    """Whether it has as many workers as it wants."""
    state = desk.sandbox.pools.state("default")
    return state.idle_workers == state.replicas > 0


def keepers() -> list[psutil.Process]:
    """What jails of this process hang from; other tests may have started other things."""
    return [child for child in psutil.Process().children() if is_keeper(child)]


def is_keeper(process: psutil.Process) -> bool:
    try:
        return "insula_jail" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def processes() -> set[int]:
    """All processes of all jails of this process."""
    return {pid for keeper in keepers() for pid in watch.processes(keeper.pid)}


@asynccontextmanager
async def unharmed(desk: Desk) -> AsyncIterator[None]:
    """The block leaves no process, and scripts are run as before, by the same template."""
    await until(lambda: is_ready(desk))
    before = processes()
    yield
    assert await desk.works()
    await until(lambda: len(processes()) == len(before))
    # A template that is lost takes every worker with it.
    assert processes() & before
