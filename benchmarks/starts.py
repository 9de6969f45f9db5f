"""Starts, one target at a time: seconds to the first 200, and the memory it then idles at."""

import random
import subprocess
import time
from collections.abc import Callable
from typing import Any

from benchmarks.processes import Server, bare_environment
from benchmarks.targets import INSULA, LITELLM, REFERENCE, SMG, Street, make_ready, ready_path

IMPORT_LINE = "import litestar, sqlalchemy.ext.asyncio"
IDLE_AFTER_S = 1.0

IMPORT = "import line"
WARM = INSULA
FIRST = f"{INSULA}, very first start"
LEAN = ", no development packages"

Start = dict[str, Any]


def time_starts(street: Street, times: int) -> list[Start]:
    """Every kind of start, `times` times, in a shuffled order; one more, unmeasured, before."""
    kinds = _kinds(street)
    starts: list[Start] = []
    for number in range(-1, times):
        for kind in random.sample(list(kinds), len(kinds)):
            start = {"kind": kind, "round": number, **kinds[kind]()}
            if number >= 0:
                starts.append(start)
        print(f"start {number + 1} of {times}", flush=True)
    return starts


def _kinds(street: Street) -> dict[str, Callable[[], Start]]:
    places = street.places
    kinds = {REFERENCE: lambda: _serve(street, street.reference())}
    for name, python in (("", places.python), (LEAN, places.lean_python)):
        if python:
            kinds |= _insula_kinds(street, name, python)
    if places.smg_python:
        kinds[SMG] = lambda: _serve(street, street.smg())
    if places.litellm_python:
        kinds[LITELLM] = lambda: _serve(street, street.litellm())
    return kinds


def _insula_kinds(street: Street, suffix: str, python: str) -> dict[str, Callable[[], Start]]:
    data = street.folder()
    return {
        IMPORT + suffix: lambda: _import(python),
        WARM + suffix: lambda: _serve(street, street.insula(data, python=python)),
        FIRST + suffix: lambda: _serve(street, street.insula(street.folder(), python=python)),
    }


def _import(python: str) -> Start:
    began = time.monotonic()
    subprocess.run((python, "-c", IMPORT_LINE), env=bare_environment(), check=True)
    return {"seconds": time.monotonic() - began}


def _serve(street: Street, server: Server) -> Start:
    with street.started(server):
        seconds = server.wait_for(ready_path(server.name))
        spent = server.cpu_s()
        time.sleep(IDLE_AFTER_S)
        memory = server.pss_mib()
        make_ready(server)
    return {"seconds": seconds, "cpu_s": spent, "pss_mib": memory}
