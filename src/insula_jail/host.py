"""What a host offers for walls, found out by building them, and what would help it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from insula_jail import landlock, machine, seccomp, walls
from insula_jail.walls import WallMissing

OLDEST_KERNEL = (5, 13)
TRIAL_S = 10
# Any range will do: nothing runs under it but the trial.
TRIAL_UID_BASE = 400_000
LEAST_PROCESSES = 256
_WHY_BYTES = 4096
_NOT_LINUX = "The walls are built from what Linux offers, and this is {}. Use the Docker runner."
_APPARMOR = (
    "AppArmor takes the rights of a user namespace away from every program without a profile. "
    "Give the Python that runs Insula one, in /etc/apparmor.d/insula: "
    '"abi <abi/4.0>, include <tunables/global> profile insula {} flags=(unconfined) {{ userns, }}"'
    ", then reload AppArmor. Do not switch the restriction off."
)
_NONE_ALLOWED = (
    "The host allows no user namespaces: user.max_user_namespaces is 0. Set it to 1000 or more."
)
_CLONE_OFF = (
    "The host allows user namespaces to root only: set kernel.unprivileged_userns_clone to 1."
)
_CONTAINER = (
    "This container may not create namespaces ({}). Without them tier B is used; for tier A run "
    "Insula on the host itself, or let the container's security profile allow it."
)


class Finding(NamedTuple):
    """One thing that walls need. ``why`` is empty, or says what is wrong and what would help."""

    name: str
    is_up: bool
    why: str = ""


def report() -> list[Finding]:
    """Every finding about this host."""
    if platform.system() != "Linux":
        why = _NOT_LINUX.format(platform.system() or "an unknown system")
        return [Finding("linux", is_up=False, why=why)]
    return [Finding("linux", is_up=True), _kernel(), _architecture(), *_tried(), _processes()]


def _kernel() -> Finding:
    release = platform.release()
    numbers = [int(part) if part.isdigit() else 0 for part in release.split("-")[0].split(".")[:2]]
    is_up = tuple(numbers) >= OLDEST_KERNEL
    wanted = ".".join(map(str, OLDEST_KERNEL))
    return Finding("kernel", is_up, "" if is_up else f"Linux {release}; {wanted} is the oldest.")


def _architecture() -> Finding:
    try:
        machine.this_machine()
    except machine.UnknownArchitecture as error:
        return Finding("architecture", is_up=False, why=f"{error}; use the Docker runner.")
    return Finding("architecture", is_up=True)


def _tried() -> list[Finding]:
    """What the trials say, which need a process that has one thread and may be spoiled."""
    folder = str(Path(__file__).resolve().parents[1])
    start = f"import sys; sys.path.insert(0, {folder!r}); from insula_jail.host import main; main()"
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-B", "-c", start]
    try:
        ended = subprocess.run(  # noqa: S603 - our own interpreter and file
            command,
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRIAL_S,
            check=True,
        )
        whys: dict[str, str] = json.loads(ended.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        whys = dict.fromkeys(_TRIALS, f"It could not be tried: {error}")
    whys["namespaces"] = explain(whys["namespaces"], _circumstances())
    return [Finding(name, not why, why) for name, why in whys.items()]


def _processes() -> Finding:
    """Whether a container's or a user's limit leaves room for workers."""
    limits = [_number(f"/sys/fs/cgroup/{place}pids.max") for place in ("", "pids/")]
    lines = Path("/proc/self/limits").read_text(encoding="ascii").splitlines()
    limits += [_as_number(line.split()[2]) for line in lines if line.startswith("Max processes")]
    least = min((limit for limit in limits if limit is not None), default=None)
    if least is None or least >= LEAST_PROCESSES:
        return Finding("processes", is_up=True)
    why = f"Only {least} processes are allowed here; raise the limit to {LEAST_PROCESSES} or more."
    return Finding("processes", is_up=False, why=why)


class Circumstances(NamedTuple):
    """What a refusal of namespaces may come from; settings that the host has not are empty."""

    is_root: bool
    is_container: bool
    most_namespaces: str
    for_users: str
    restricted_by_apparmor: str


def explain(why: str, host: Circumstances) -> str:
    """Plain words for the kernel's refusal of namespaces, and what would help; empty for none."""
    if not why:
        return ""
    if host.most_namespaces == "0":
        return _NONE_ALLOWED
    if not host.is_root and host.for_users == "0":
        return _CLONE_OFF
    if not host.is_root and host.restricted_by_apparmor == "1":
        return _APPARMOR.format(os.path.realpath(sys.executable))
    if host.is_container:
        return _CONTAINER.format(why)
    return f"The kernel refused ({why}). In a container that is usual, and tier B is used."


def _circumstances() -> Circumstances:
    marks = ("/.dockerenv", "/run/.containerenv")
    return Circumstances(
        is_root=os.geteuid() == 0,
        is_container=any(Path(mark).exists() for mark in marks),
        most_namespaces=_sysctl("user/max_user_namespaces"),
        for_users=_sysctl("kernel/unprivileged_userns_clone"),
        restricted_by_apparmor=_sysctl("kernel/apparmor_restrict_unprivileged_userns"),
    )


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _number(path: str) -> int | None:
    try:
        return _as_number(Path(path).read_text(encoding="ascii").strip())
    except OSError:
        return None


def _as_number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def main() -> None:
    """Print why each trial failed, as JSON, with empty texts for those that did not."""
    print(json.dumps({name: _in_child(trial) for name, trial in _TRIALS.items()}))  # noqa: T201


def _in_child(trial: Callable[[], None]) -> str:
    """Why ``trial`` fails in a process of its own; empty when it does not."""
    told, telling = os.pipe()
    pid = os.fork()
    if pid == 0:
        _tell(trial, telling)
    os.close(telling)
    with os.fdopen(told, "rb") as answer:
        why = answer.read(_WHY_BYTES).decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    return why or ("" if status == 0 else f"the trial ended with {status}")


def _tell(trial: Callable[[], None], telling: int) -> None:
    status = 0
    try:
        trial()
    except (WallMissing, OSError) as error:
        os.write(telling, str(error).encode()[:_WHY_BYTES])
    except BaseException:  # noqa: BLE001 - the parent is told that it ended badly
        status = 1
    finally:
        os._exit(status)


def _try_landlock() -> None:
    landlock.Rules(walls.require_landlock(), [("/usr", landlock.READ)]).restrict()
    try:
        os.close(os.open("/", os.O_RDONLY))
    except PermissionError:
        return
    raise WallMissing("landlock", "it was set up, and does not hold")


def _try_seccomp() -> None:
    seccomp.install(seccomp.worker_program(machine.this_machine(), "A").code)
    try:
        machine.call("keyctl", 0, 0, 0, 0, 0)
    except PermissionError:
        return
    raise WallMissing("seccomp", "it was set up, and does not hold")


def _try_namespaces() -> None:
    """The whole of what a zygote does, since a host may allow the first half of it only."""
    place = walls.enter_namespaces([], TRIAL_UID_BASE if os.geteuid() == 0 else None)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            walls.enter_root(place)
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1] != 0:
        raise WallMissing("root", "a new root folder could not be entered")


_TRIALS: dict[str, Callable[[], None]] = {
    "landlock": _try_landlock,
    "seccomp": _try_seccomp,
    "namespaces": _try_namespaces,
}
