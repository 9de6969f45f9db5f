"""A real jail for a test: opened in one tier, and left without a trace."""

import asyncio
import json
import shutil
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil
import pytest

from app.modules.sandbox.adapters.jail.runner import JailRunner, NoPackages, Packages
from app.modules.sandbox.adapters.jail.zygote import Zygote
from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.ports import Gone, Printed, Said, TemplateSpec, Worker
from tests.waiting import until

Tier = Literal["A", "B"]

TIERS: tuple[Tier, ...] = ("A", "B")
RUN_S = 20.0


class Outcome(msgspec.Struct, frozen=True):
    """What a script left. ``said``: all frames of its worker; ``done`` is the last, if it came."""

    stdout: bytes
    stderr: bytes
    said: list[dict[str, Any]]
    done: dict[str, Any] | None
    gone: Gone
    is_late: bool


class OneFolder:
    """Every set of packages is this folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def ensure(self, packages: tuple[str, ...]) -> str | None:
        return str(self._folder) if packages else None

    async def close(self) -> None: ...


@contextmanager
def passable_folder() -> Iterator[Path]:
    """A folder that users with other ids may pass through: pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="insula-jails-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def open_runner(
    tier: Tier, folder: Path, packages: Packages | None = None
) -> AsyncIterator[JailRunner]:
    """A runner of this tier; the test is skipped, with the reason, where the machine has none."""
    runner = JailRunner(folder, packages or NoPackages(), forced=tier)
    try:
        capabilities = await runner.open()
        if capabilities.tier != tier:
            pytest.skip(capabilities.reason)
        yield runner
    finally:
        await runner.close()


@asynccontextmanager
async def open_template(
    tier: Tier, preload: tuple[str, ...] = (), **limits: int
) -> AsyncIterator[Zygote]:
    """A template with these limits, whose processes are all gone when the block ends."""
    with passable_folder() as folder:
        async with open_runner(tier, folder) as runner:
            spec = TemplateSpec("test", preload=preload, limits=Limits(**limits))
            template = await runner.prepare(spec)
            family = [psutil.Process(template.pid)]
            try:
                yield template
            finally:
                family += descendants(template)
                await template.close()
                await until(lambda: not any(is_alive(process) for process in family))


def descendants(template: Zygote) -> list[psutil.Process]:
    """The processes of a template, but for its first."""
    try:
        found: list[psutil.Process] = psutil.Process(template.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def job(code: str, limits: Limits | None = None, **given: Any) -> dict[str, Any]:
    """The frame that hands a script over. ``given``: its ``settings`` and ``memory``."""
    limits = limits or Limits()
    names = ("result_kb", "memory_state_kb", "prompt_kb", "llm_calls", "artifacts", "artifact_mb")
    return {
        "t": "job",
        "code": code,
        "settings": given.get("settings", {}),
        "memory": given.get("memory", {}),
        "limits": {name: getattr(limits, name) for name in names},
    }


async def run_script(
    template: Zygote,
    code: str,
    *,
    within_s: float = RUN_S,
    answers: Sequence[str] = (),
    files: dict[str, bytes] | None = None,
    **given: Any,
) -> Outcome:
    """Run a script in a worker of its own, which is gone afterwards.

    Prompts are answered by ``answers``, one after the other. After ``within_s`` it is killed.
    """
    worker = await template.spawn()
    for name, data in (files or {}).items():
        text = b64encode(data).decode()
        await worker.send({"t": "file", "name": name, "data": text, "more": False})
    await worker.send(job(code, **given))
    return await follow(worker, within_s=within_s, answers=answers)


async def follow(
    worker: Worker, *, within_s: float = RUN_S, answers: Sequence[str] = ()
) -> Outcome:
    """Hear a worker out that has its job."""
    printed = {"stdout": bytearray(), "stderr": bytearray()}
    said: list[dict[str, Any]] = []
    replies = iter(answers)
    late: list[bool] = []

    def stop() -> None:
        late.append(True)
        worker.kill()

    timer = asyncio.get_running_loop().call_later(within_s, stop)
    try:
        async for event in worker.events():
            if isinstance(event, Printed):
                printed[event.stream] += event.data
            elif isinstance(event, Said):
                said.append(json.loads(event.frame))
                if said[-1]["t"] == "llm":
                    reply = {"t": "llm_reply", "seq": said[-1]["seq"], "text": next(replies)}
                    await worker.send(reply)
                elif said[-1]["t"] == "done":
                    worker.kill()
            else:
                gone = event
    finally:
        timer.cancel()
        worker.kill()
    done = next((frame for frame in said if frame["t"] == "done"), None)
    return Outcome(bytes(printed["stdout"]), bytes(printed["stderr"]), said, done, gone, bool(late))


def open_files() -> int:
    """How many descriptors this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
