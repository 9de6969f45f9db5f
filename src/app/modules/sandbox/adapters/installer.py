"""One run of pip, behind walls: which paths it sees, what it may use, and how it is stopped."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from signal import SIGKILL
from typing import Any, Final

import msgspec

from app.kernel import log
from app.modules.sandbox.adapters.package_index import Index
from app.modules.sandbox.ports import NoWall, TemplateFailed

# Shown in the error itself; more of the log is in its member ``log``.
TEXT_CHARS: Final = 1000
LOOK_EVERY_S: Final = 0.5
DRAIN_S: Final = 5.0
CHUNK_BYTES: Final = 64 * 1024
# As insula_jail.install says it.
NO_WALL_CODE: Final = 97

_START: Final = "import sys; sys.path.insert(0, {!r}); from insula_jail.install import main; main()"
_PIP: Final = (
    "import runpy, sys; sys.path.insert(0, {!r}); "
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)
_PYTHON: Final = ("-I", "-S", "-X", "utf8", "-B", "-c")
_OPTIONS: Final = (
    "--only-binary=:all:",
    "--no-input",
    "--no-cache-dir",
    "--no-color",
    "--progress-bar=off",
    "--disable-pip-version-check",
    "--root-user-action=ignore",
)


class Terms(msgspec.Struct, frozen=True):
    """What one installation may use. ``log_kb`` is kept of what pip says, its end.

    ``disk_mb`` and ``files`` are the whole set's with what pip needs on the way; ``uid`` is whose
    the installer is where the server is root.
    """

    timeout_s: float = 300
    log_kb: int = 16
    memory_mb: int = 2048
    disk_mb: int = 4096
    file_mb: int = 1024
    files: int = 200_000
    open_files: int = 1024
    processes: int = 64
    uid: int = 65_534


class Staging(msgspec.Struct, frozen=True):
    """The folders of one installation: what it makes, and what it needs for that."""

    path: Path

    @property
    def made(self) -> Path:
        return self.path / "set"

    @property
    def site(self) -> Path:
        """Where the packages go."""
        return self.made / "site"

    @property
    def scratch(self) -> Path:
        return self.path / "tmp"

    @property
    def root(self) -> Path:
        """Where the installer's own root is put together."""
        return self.path / "root"

    @property
    def entry(self) -> Path:
        """What pip is imported from, and nothing else."""
        return self.path / "pip"

    @property
    def wanted(self) -> Path:
        return self.path / "wanted.txt"

    def make(self, packages: tuple[str, ...], pip: str) -> None:
        self.path.mkdir(mode=0o700, parents=True)
        for folder in (self.made, self.site, self.scratch, self.root, self.entry):
            folder.mkdir()
        # Whatever the server's own habit is, workers of other users have to read the set.
        self.made.chmod(0o755)
        self.site.chmod(0o755)
        # So has the installer, which is another user too, what pip is made of and told.
        self.entry.chmod(0o755)
        (self.entry / "pip").symlink_to(pip)
        self.wanted.write_text("\n".join(packages) + "\n")
        self.wanted.chmod(0o644)


class Installer:
    """``python`` is the interpreter without any virtual environment, ``pip`` the folder of the
    package of that name, our own where it is left out.
    """

    def __init__(self, python: str, index: Index, terms: Terms, pip: str = "") -> None:
        self._python = python
        self._index = index
        self._terms = terms
        self._pip = pip

    def find_pip(self) -> str:
        if self._pip:
            return self._pip
        spec = find_spec("pip")
        if spec is None or not spec.submodule_search_locations:
            raise TemplateFailed("Packages need pip, which this server lacks. Install pip.", log="")
        return spec.submodule_search_locations[0]

    async def install(self, staging: Staging) -> None:
        """Fill ``staging.site``, or raise ``TemplateFailed`` with the end of the log."""
        tail = _Tail(self._terms.log_kb * 1024)
        try:
            code = await self._run(msgspec.json.encode(self._plan(staging)), staging, tail)
            await asyncio.to_thread(self._weigh, staging)
        except TooBig as stopped:
            raise failure(str(stopped), tail.text) from None
        if code == NO_WALL_CODE:
            raise NoWall(f"Packages cannot be installed behind walls here. {tail.text}")
        if code != 0:
            raise failure(f"pip ended with {code}", tail.text)

    def _plan(self, staging: Staging) -> dict[str, Any]:
        """What the code behind the wall is told. The paths are the same there."""
        site, scratch, entry = str(staging.site), str(staging.scratch), str(staging.entry)
        wanted = str(staging.wanted)
        arguments = ("install", *_OPTIONS, "--target", site, "--requirement", wanted)
        home = {"HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8"}
        pip = str((staging.entry / "pip").readlink())
        terms = self._terms
        return {
            "program": [self._python, *_PYTHON, _PIP.format(entry), *arguments],
            "env": self._index.environment | home,
            "read": [*_homes(self._python), pip, entry, wanted, *self._index.paths()],
            "write": [scratch, site],
            "root": str(staging.root),
            "uid": terms.uid,
            "limits": {
                "memory_mb": terms.memory_mb,
                "cpu_s": int(terms.timeout_s) + 1,
                "file_mb": terms.file_mb,
                "files": terms.open_files,
                "processes": terms.processes,
            },
        }

    async def _run(self, plan: bytes, staging: Staging, tail: "_Tail") -> int:
        """Run the installer to its end; whatever happens, none of its processes is left."""
        process = await asyncio.create_subprocess_exec(
            self._python,
            *_PYTHON,
            _START.format(_jail_home()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={},
            cwd="/",
            start_new_session=True,
        )
        reading = asyncio.create_task(tail.read(process.stdout))
        try:
            await _tell(process.stdin, plan)
            await self._until_done(reading, staging)
            return await process.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, SIGKILL)
            # The pipe ends with the last process that holds it.
            await asyncio.wait({reading}, timeout=DRAIN_S)
            reading.cancel()
            await process.wait()

    async def _until_done(self, reading: "asyncio.Task[None]", staging: Staging) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._terms.timeout_s
        while not reading.done():
            left_s = deadline - loop.time()
            if left_s <= 0:
                raise TooBig(f"it took more than {self._terms.timeout_s:g} s")
            await asyncio.wait({reading}, timeout=min(LOOK_EVERY_S, left_s))
            await asyncio.to_thread(self._weigh, staging)

    def _weigh(self, staging: Staging) -> None:
        used = 0
        for count, entry in enumerate(entries(staging.path), start=1):
            with suppress(FileNotFoundError):
                used += entry.stat(follow_symlinks=False).st_size
            if used > self._terms.disk_mb << 20:
                raise TooBig(f"it needs more than {self._terms.disk_mb} MiB")
            if count > self._terms.files:
                raise TooBig(f"it has more than {self._terms.files} files")


class TooBig(Exception):
    """The installation takes more of something than it may."""


class _Tail:
    """The end of what was written."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept = bytearray()
        self._is_cut = False

    async def read(self, stream: asyncio.StreamReader | None) -> None:
        while stream is not None and (chunk := await stream.read(CHUNK_BYTES)):
            self._kept += chunk
            if len(self._kept) > self._limit_bytes:
                del self._kept[: -self._limit_bytes]
                self._is_cut = True

    @property
    def text(self) -> str:
        start = "[...]" if self._is_cut else ""
        return start + log.mask(self._kept.decode(errors="replace")).strip()


def failure(why: str, log_text: str = "") -> TemplateFailed:
    text = f"The packages could not be installed: {why}."
    end = log_text[-TEXT_CHARS:]
    return TemplateFailed(f"{text}\n{end}" if end else text, log=log_text)


def entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """Everything below a folder, which may change meanwhile; no link is followed."""
    waiting = [str(folder)]
    while waiting:
        try:
            found = list(os.scandir(waiting.pop()))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in found:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)


async def _tell(stdin: asyncio.StreamWriter | None, plan: bytes) -> None:
    if stdin is not None:
        with suppress(ConnectionError):
            stdin.write(plan)
            await stdin.drain()
        stdin.close()


def _jail_home() -> str:
    """The folder that the code behind the wall is imported from."""
    spec = find_spec("insula_jail")
    if spec is None or spec.origin is None:
        raise NoWall("This installation lacks insula_jail, which builds the walls.")
    return str(Path(spec.origin).parents[1])


def _homes(python: str) -> list[str]:
    """The interpreter's own folders: as it is called, and as it lies on the disk."""
    called, real = Path(python), Path(python).resolve()
    return sorted({str(called.parents[1]), str(real.parents[1])} - {"/"})
