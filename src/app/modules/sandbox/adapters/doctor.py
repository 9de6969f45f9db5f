"""``insula sandbox doctor``: what this machine isolates scripts with, and what would be better."""

import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from app.kernel.settings import load
from app.modules.sandbox.adapters.advice import GVISOR, DockerFound, Machine, advice
from app.modules.sandbox.adapters.docker.engine import Engine, EngineFailed
from app.modules.sandbox.adapters.docker.walls import lacking
from app.modules.sandbox.adapters.first import RANKS
from app.modules.sandbox.adapters.jail.host import Tier, interpreter
from app.modules.sandbox.adapters.jail.runner import JailRunner, NoPackages
from app.modules.sandbox.ports import Capabilities, Wall
from app.modules.sandbox.settings import SandboxSettings

DOCKER_S: Final = 3.0
# Workers have other user ids, and must get to their folders through this one.
PASSABLE: Final = 0o711
TIERS: Final = {
    "A": "namespaces, an own root, Landlock and seccomp",
    "B": "Landlock, seccomp and a watchdog",
    "docker": "containers",
    "gvisor": "containers with a kernel of their own",
}
SYSCTLS: Final = (
    "kernel/apparmor_restrict_unprivileged_userns",
    "kernel/unprivileged_userns_clone",
    "user/max_user_namespaces",
)
# What container engines leave in their containers.
MARKS: Final = ("/.dockerenv", "/run/.containerenv")


class Report(msgspec.Struct, frozen=True):
    """``is_isolated``: whether the server would run scripts here."""

    text: str
    is_isolated: bool


async def examine(environ: Mapping[str, str]) -> Report:
    """Start a real jail, ask the Docker engine, and say what a server with this environment does.

    No container is started: for that an image may have to be fetched.
    """
    settings = load(SandboxSettings, environ)
    jail, not_better = await _jail(settings)
    machine = _machine(jail.tier)
    docker = await ask_engine(environ, settings.docker_runtime)
    chosen = choose(settings, jail.tier, docker.tier)
    lines = [*_summary(settings, machine, jail, docker), _verdict(settings, chosen)]
    lines += [f"Not A    {not_better}"] if not_better else []
    lines += ["", *_table(jail.walls)]
    advised = advice(machine, jail, docker)
    lines += ["", "What would isolate better:", *advised] if advised else []
    return Report("\n".join(lines).rstrip(), chosen != "none")


async def ask_engine(environ: Mapping[str, str], runtime: str) -> DockerFound:
    """What a Docker engine says of itself; ``runtime`` is the one to use, or ``auto``."""
    variables = {name: value for name, value in environ.items() if name.startswith("DOCKER_")}
    engine = Engine(variables, call_timeout_s=DOCKER_S)
    try:
        facts = await engine.call(lambda client: client.info())
    except EngineFailed as error:
        return DockerFound(reason=str(error))
    finally:
        await engine.close()
    return _read(facts, runtime)


def choose(settings: SandboxSettings, jail_tier: str, docker_tier: str) -> str:
    """The tier that scripts get, as a server with these settings chooses it, or ``none``."""
    found = {"jail": jail_tier, "docker": docker_tier}
    wanted = [*found] if settings.runner == "auto" else [settings.runner]
    for tier in (found[name] for name in wanted):
        if RANKS.index(tier) >= RANKS.index(settings.min_tier):
            return tier
    return "none"


async def _jail(settings: SandboxSettings) -> tuple[Capabilities, str]:
    """What a jail is found to be from the inside, and why it is not of tier A."""
    if settings.jail_tier != "auto":
        return await _try(settings.jail_tier), ""
    found = await _try(None)
    return found, (await _try("A")).reason if found.tier == "B" else ""


async def _try(forced: Tier | None) -> Capabilities:
    with tempfile.TemporaryDirectory(prefix="insula-doctor-", ignore_cleanup_errors=True) as name:
        os.chmod(name, PASSABLE)  # noqa: PTH101 - a Path would be blocking just as little
        runner = JailRunner(Path(name) / "scratch", NoPackages(), forced=forced)
        try:
            return await runner.open()
        finally:
            await runner.close()


def _read(facts: Mapping[str, Any], wanted: str) -> DockerFound:
    version = str(facts.get("ServerVersion"))
    runtimes = tuple(sorted(facts.get("Runtimes") or {}))
    if missing := lacking(facts):
        return DockerFound("none", version, runtimes, missing)
    if wanted != "auto" and wanted not in runtimes:
        reason = f"It has no runtime {wanted}, which SANDBOX_DOCKER_RUNTIME asks for."
        return DockerFound("none", version, runtimes, reason)
    is_gvisor = GVISOR in runtimes and wanted != "runc"
    return DockerFound("gvisor" if is_gvisor else "docker", version, runtimes)


def _machine(tier: str) -> Machine:
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        is_linux=sys.platform == "linux",
        is_root=os.geteuid() == 0,
        is_container=any(Path(mark).exists() for mark in MARKS),
        python=str(interpreter("B" if tier == "B" else "A").program),
        sysctls={name.replace("/", "."): value for name, value in _sysctls()},
    )


def _sysctls() -> Iterator[tuple[str, str]]:
    for name in SYSCTLS:
        path = Path("/proc/sys") / name
        if path.exists():
            yield name, path.read_text(encoding="ascii").strip()


def _summary(
    settings: SandboxSettings, machine: Machine, jail: Capabilities, docker: DockerFound
) -> list[str]:
    person = "root" if machine.is_root else "a plain user"
    place = ", in a container" if machine.is_container else ""
    engine = (
        f"Docker {docker.version} with {', '.join(docker.runtimes)}. " if docker.version else ""
    )
    kind = f"Tier {docker.tier}, when an image is there." if docker.tier != "none" else ""
    return [
        f"Machine  {machine.system}, as {person}{place}",
        f"Python   {machine.python} ({platform.python_version()})",
        f"Jail     {_tier(jail)}",
        f"Docker   {engine}{kind}{docker.reason}",
        f"Wanted   SANDBOX_RUNNER={settings.runner}, SANDBOX_MIN_TIER={settings.min_tier}, "
        f"SANDBOX_JAIL_TIER={settings.jail_tier}",
    ]


def _tier(jail: Capabilities) -> str:
    if jail.tier == "none":
        return f"None. {jail.reason}"
    return f"Tier {jail.tier}: {TIERS[jail.tier]}. It was started and tried from the inside."


def _verdict(settings: SandboxSettings, chosen: str) -> str:
    if chosen == "none":
        return f"Scripts  are refused: nothing isolates them as well as {settings.min_tier}."
    return f"Scripts  run in tier {chosen}: {TIERS[chosen]}."


def _table(walls: tuple[Wall, ...]) -> list[str]:
    if not walls:
        return []
    width = max(len(wall.name) for wall in walls)
    rows = [
        f"{wall.name:<{width}}  {'up' if wall.is_up else 'missing':<7}  {wall.why}".rstrip()
        for wall in walls
    ]
    return [f"{'WALL':<{width}}  STATE", *rows]
