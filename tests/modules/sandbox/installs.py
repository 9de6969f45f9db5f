"""Wheels that are made here, programs in pip's place, and hosts with fewer walls."""

import asyncio
import compileall
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import pip
import psutil

from app.modules.sandbox.adapters.installer import Terms
from app.modules.sandbox.adapters.package_index import Index
from app.modules.sandbox.adapters.packages import PackageSets

PYTHON = sys._base_executable

# What a probe in pip's place may not do; it says so in a line of its log.
PROBE = """
import ctypes, json, os, sys
def tried(what):
    try:
        return str(what())
    except BaseException as error:
        return type(error).__name__
print("REPORT" + json.dumps({{
    "secret": tried(lambda: open({secret!r}).read()),
    "outside": tried(lambda: open({outside!r}, "w")),
    "environ": sorted(os.environ),
    "server": tried(lambda: open("/proc/{pid}/environ", "rb").read()),
    "signal": tried(lambda: os.kill({pid}, 0)),
    "root": tried(lambda: os.listdir("/root")),
    "rights": tried(lambda: os.setuid(12345)),
    "own": tried(lambda: open(os.environ["TMPDIR"] + "/x", "w").write("x")),
    "no_new_privs": ctypes.CDLL(None).prctl(39, 0, 0, 0, 0),
}}))
sys.exit(1)
"""

# Installs one file in pip's place, never the same.
QUICK = """
import os, sys
site = sys.argv[sys.argv.index("--target") + 1]
open(site + "/tiny.py", "w").write(os.urandom(8).hex())
"""

# Goes on where the kernel refuses every namespace, as many containers do.
NO_NAMESPACES = """
import asyncio, json, os, struct, sys
from contextlib import suppress
from pathlib import Path
from insula_jail import machine, seccomp
uid, gid = os.geteuid(), os.getegid()
with suppress(OSError):
    machine.unshare(machine.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    for kind in ("mnt", "user"):
        Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("0")
if sys.argv[5:]:
    # The kernel has no Landlock either: load the call's number; 444 is none that it knows.
    deny, allow = 0x50000 | 95, 0x7FFF0000
    steps = (0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, deny), (0x06, 0, 0, allow)
    seccomp.install(b"".join(struct.pack("=HBBI", *step) for step in steps))
from app.modules.sandbox.adapters.package_index import Index
from app.modules.sandbox.adapters.packages import PackageSets
from app.modules.sandbox.ports import NoWall, TemplateFailed
root, python, wheels, pip = sys.argv[1:5]
sets = PackageSets(root, python=python, pip=pip,
    index=Index(variables={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels}, config_files=()))
try:
    print("FOLDER" + asyncio.run(sets.ensure(("tiny",))))
except TemplateFailed as error:
    print(error.extra["log"])
except NoWall as error:
    print("REFUSED", error)
"""


class Shelf:
    """A folder of wheels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def put(self, name: str, version: str = "1.0", *, needs: str = "", **files: str) -> None:
        about = f"{name}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        texts = {
            f"{name}.py": f"version = {version!r}\n",
            f"{about}/METADATA": metadata + (f"Requires-Dist: {needs}\n" if needs else ""),
            f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            **files,
        }
        texts[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in texts)
        with zipfile.ZipFile(self.folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            for path, text in texts.items():
                wheel.writestr(path, text)

    def put_source(self, name: str, setup: str) -> None:
        with tarfile.open(self.folder / f"{name}-1.0.tar.gz", "w:gz") as archive:
            info = tarfile.TarInfo(f"{name}-1.0/setup.py")
            info.size = len(setup)
            archive.addfile(info, BytesIO(setup.encode()))


def compiled_pip(folder: Path) -> str:
    """A copy of our own pip, compiled: behind the walls nothing that it compiles is kept."""
    copied = shutil.copytree(Path(pip.__file__).parent, folder / "pip")
    compileall.compile_dir(copied, quiet=1)
    for path in copied.rglob("*"):
        # The installer is another user, whatever our own habit is.
        path.chmod(0o755 if path.is_dir() else 0o644)
    return str(copied)


class Bench:
    """A place for sets, wheels, and programs in pip's place; ``pip`` is for want of one."""

    def __init__(self, folder: Path, pip: str = "") -> None:
        self.folder = folder
        self.pip = pip
        self.root = folder / "sets"
        self.shelf = Shelf(folder / "wheels")

    @property
    def index(self) -> Index:
        wheels = str(self.shelf.folder)
        return Index(variables={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels}, config_files=())

    def sets(self, *, index: Index | None = None, pip: str | None = None, **terms) -> PackageSets:
        """``pip``: a program in its place; the server's own where it is empty."""
        return PackageSets(
            str(self.root),
            python=PYTHON,
            index=index or self.index,
            terms=Terms(**terms),
            pip=self.pip if pip is None else pip,
        )

    def program(self, text: str) -> str:
        """The folder of a package that runs in pip's place."""
        folder = self.folder / "program" / "pip"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        (folder / "__main__.py").write_text(text)
        return str(folder)

    def probe(self) -> str:
        secret = self.folder / "secret.txt"
        secret.write_text("planted")
        secret.chmod(0o644)
        outside = str(self.folder / "outside.txt")
        return self.program(PROBE.format(secret=str(secret), outside=outside, pid=os.getpid()))

    def left(self) -> list[str]:
        """What lies in the place of the sets."""
        return sorted(path.name for path in self.root.iterdir())

    def installed(self) -> list[os.stat_result]:
        """How every file and folder of the sets is."""
        return [path.stat() for path in self.root.rglob("*")]

    def processes(self) -> list[int]:
        """The installers that still run."""
        return [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if any(str(self.root) in part for part in process.info["cmdline"] or ())
        ]


class SilentIndex:
    """An index on this machine that takes a request and never answers."""

    def __init__(self) -> None:
        self.requests = 0

    async def __aenter__(self) -> "SilentIndex":
        self._held: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(self._hold, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *failure: object) -> None:
        for writer in self._held:
            writer.close()
        self._server.close()

    @property
    def index(self) -> Index:
        port = self._server.sockets[0].getsockname()[1]
        return Index(url=f"http://127.0.0.1:{port}/simple", config_files=())

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._held.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1


def without_namespaces(bench: Bench, pip: str = "", *more: str) -> str:
    """What the installer says where the host has Landlock alone, or with ``more``, nothing."""
    arguments = (str(bench.root), PYTHON, str(bench.shelf.folder), pip, *more)
    command = [sys.executable, "-c", NO_NAMESPACES, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
