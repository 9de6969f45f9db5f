"""Sets of packages, installed once each by pip behind walls, and kept by what is in them."""

import asyncio
import hashlib
import os
import secrets
import shutil
import stat
import sys
import sysconfig
from pathlib import Path
from typing import Final

import msgspec

from app.modules.sandbox.adapters.installer import Installer, Staging, Terms, entries, failure
from app.modules.sandbox.adapters.package_index import Index
from app.modules.sandbox.domain.packages import canonical, package_hash

__all__ = ["PackageSets", "Terms"]

SITE: Final = "site"
MARKER: Final = "complete.json"
STAGING: Final = ".building-"


class PackageSets:
    """Folders of packages below ``root``. A set is there whole or not at all.

    ``python`` is the interpreter without any virtual environment; ``pip`` the folder of the
    package of that name, our own where it is left out.
    """

    def __init__(
        self,
        root: str,
        *,
        python: str,
        index: Index | None = None,
        terms: Terms | None = None,
        pip: str = "",
    ) -> None:
        self._root = Path(root).absolute()
        self._index = index or Index()
        self._installer = Installer(python, self._index, terms or Terms(), pip)
        self._builds: dict[str, asyncio.Task[str]] = {}
        self._is_swept = False

    async def ensure(self, packages: tuple[str, ...]) -> str | None:
        """The folder to put on ``sys.path``; ``None`` for no packages.

        Installs them unless that was done before, once for all who ask at the same time.
        ``TemplateFailed`` with the end of pip's ``log``, ``PackageInvalid``, or ``NoWall``.
        """
        wanted = canonical(packages)
        if not wanted:
            return None
        name = package_hash(wanted, self._tag())
        if await asyncio.to_thread(_is_complete, self._root / name):
            return str(self._root / name / SITE)
        build = self._builds.get(name)
        if build is None:
            build = self._builds[name] = asyncio.create_task(self._build(name, wanted))
            build.add_done_callback(lambda ended: self._land(name, ended))
        return await asyncio.shield(build)

    async def close(self) -> None:
        """Stop what is being installed."""
        builds = list(self._builds.values())
        for build in builds:
            build.cancel()
        await asyncio.gather(*builds, return_exceptions=True)

    def _land(self, name: str, ended: "asyncio.Task[str]") -> None:
        del self._builds[name]
        if not ended.cancelled():
            # Whoever waited has it raised; if all have left, it is nobody's.
            ended.exception()

    def _tag(self) -> str:
        """What a set fits to beside its packages: this Python, this machine, and the index."""
        places = "\n".join(f"{k}={v}" for k, v in sorted(self._index.environment.items()))
        index = hashlib.sha256(places.encode()).hexdigest()
        return f"{sys.implementation.cache_tag} {sysconfig.get_platform()} {index}"

    async def _build(self, name: str, packages: tuple[str, ...]) -> str:
        staging = Staging(self._root / f"{STAGING}{os.getpid()}-{secrets.token_hex(8)}")
        try:
            await asyncio.to_thread(self._prepare, staging, packages)
            await self._installer.install(staging)
            await asyncio.to_thread(_settle, staging, self._root / name, packages)
        finally:
            await asyncio.to_thread(shutil.rmtree, staging.path, ignore_errors=True)
        return str(self._root / name / SITE)

    def _prepare(self, staging: Staging, packages: tuple[str, ...]) -> None:
        """Make the folders of one installation, and remove those of servers that are gone."""
        if not self._is_swept:
            _sweep(self._root)
            self._is_swept = True
        staging.make(packages, self._installer.find_pip())


def _settle(staging: Staging, folder: Path, packages: tuple[str, ...]) -> None:
    """Look at what was installed, make it the server's, and put it in its place at once."""
    _own(staging.site)
    with (staging.made / MARKER).open("wb") as marker:
        marker.write(msgspec.json.encode({"packages": packages}))
        marker.flush()
        os.fsync(marker.fileno())
    if not _is_complete(folder):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        staging.made.rename(folder)
    except OSError:
        # Another process was faster, with the same packages.
        if not _is_complete(folder):
            raise


def _own(site: Path) -> None:
    """Let only files and folders pass, and make them the server's: no script may write them."""
    os.chown(site, os.geteuid(), os.getegid())
    for entry in entries(site):
        mode = entry.stat(follow_symlinks=False).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise failure(f"{entry.name!r} is neither a file nor a folder")
        os.chown(entry.path, os.geteuid(), os.getegid(), follow_symlinks=False)


def _is_complete(folder: Path) -> bool:
    return (folder / MARKER).exists()


def _sweep(root: Path) -> None:
    """Remove what servers that are gone were building, and an earlier one of our own number."""
    for path in root.glob(f"{STAGING}*"):
        number = path.name.removeprefix(STAGING).partition("-")[0]
        if not number.isdigit() or int(number) == os.getpid() or not _is_alive(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
