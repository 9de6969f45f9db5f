"""Attacks from inside a jail: what each script of them starts with, and what is true after it."""

from typing import Any

import msgspec

from insula_jail import machine
from tests.jail.zygotes import Zygote, workers_of

# ``outcome`` says what came of an attempt: the name of an exception, or what was returned.
TOOLS = """
import ctypes, os, socket, sys, time
def outcome(attempt):
    try:
        return attempt()
    except Exception as error:
        return type(error).__name__
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *given):
    ctypes.set_errno(0)
    return libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, given)), ctypes.get_errno()
"""
REFUSED = {"PermissionError", "FileNotFoundError", "ProcessLookupError", "NotADirectoryError"}
NEXT = "set_result('next')"


class Attacked(msgspec.Struct, frozen=True):
    """How an attack ended: the script's last frame, if there was one, and the zygote's report."""

    done: dict[str, Any] | None
    gone: dict[str, Any]

    @property
    def result(self) -> Any:
        assert self.done is not None, self.gone
        assert self.done["error"] is None
        return self.done["result"]

    @property
    def error(self) -> str:
        assert self.done is not None, self.gone
        return str(self.done["error"])


def attack(jail: Zygote, code: str, **names: Any) -> Attacked:
    """Run an attack beside a sibling: neither that one nor the next worker may notice anything."""
    sibling = jail.ready(2)
    attacker = jail.ready(1)
    attacker.start(TOOLS + "".join(f"{name} = {value!r}\n" for name, value in names.items()) + code)
    try:
        done = attacker.hear()
    except EOFError:
        done = None
    gone = jail.hear()

    assert (gone["t"], gone["id"]) == ("gone", 1)
    assert sibling.run(NEXT)["result"] == "next"
    assert jail.hear()["id"] == 2
    assert workers_of(jail) == set()
    assert jail.ready(3).run(NEXT)["result"] == "next"
    return Attacked(done, gone)


def numbers(*calls: str) -> dict[str, int]:
    """The numbers of system calls, of those that this machine has."""
    known = machine.this_machine().numbers
    return {call: number for call in calls if (number := known[call]) is not None}
