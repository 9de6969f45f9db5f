"""Runs a Docker engine of one's own for the tests, apart from any other engine of the machine.

python scripts/docker_engine.py start [--install] [--gvisor]   prints DOCKER_HOST=... when it is up
python scripts/docker_engine.py base-image                     prints SANDBOX_DOCKER_IMAGE=...
python scripts/docker_engine.py stop                           ends it and removes its data

It needs root on Linux and `dockerd` (Debian: docker.io). It makes no bridge and no firewall rules,
so nothing in it has a network. The base image is made of this machine's Python, without a registry.
"""

import argparse
import compileall
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Final

import docker

DEFAULT_FOLDER: Final = Path(tempfile.gettempdir()) / "insula-docker"
IMAGE: Final = "insula-base:test"
INSTALL_S: Final = 180.0
START_S: Final = 30.0
STOP_S: Final = 30.0
LOOK_EVERY_S: Final = 0.05
LOG_TAIL_BYTES: Final = 2000
# Nothing outside the engine's own folder is touched: no bridge, no rules, no forwarding.
FLAGS: Final = ("--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false")
# What an interpreter does without; what is installed beside it is none of the tests' business.
LEFT_OUT: Final = frozenset(
    {"test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip"}
    | {"site-packages", "dist-packages", "pydoc_data"}
)
USERS: Final = (
    "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/tmp:/sbin/nologin\n"
)
SITE: Final = "opt/site"


def install(packages: list[str]) -> None:
    """Install what is needed from Debian's packages."""
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        command = ["/usr/bin/apt-get", "--quiet", *words]
        try:
            subprocess.run(command, check=True, stdout=sys.stderr, timeout=INSTALL_S)  # noqa: S603
        except (OSError, subprocess.SubprocessError) as error:
            raise SystemExit(f"{' '.join(packages)} cannot be installed: {error}") from None


def start(folder: Path, *, with_gvisor: bool) -> str:
    """Start `dockerd` and wait until it answers; return its DOCKER_HOST."""
    program = shutil.which("dockerd")
    if program is None:
        raise SystemExit("There is no dockerd here. Install docker.io, or use --install.")
    if _pid(folder) is not None:
        raise SystemExit(f"An engine already runs in {folder}. Stop it first.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "daemon.json").write_text(json.dumps(_configuration(with_gvisor=with_gvisor)))
    command = [program, "--config-file", str(folder / "daemon.json"), "-H", _host(folder), *FLAGS]
    for option, name in (("data-root", "data"), ("exec-root", "exec"), ("pidfile", "docker.pid")):
        command += [f"--{option}", str(folder / name)]
    with (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - the program that was found, no shell
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    if not _until(lambda: process.poll() is not None or _answers(folder), START_S):
        process.terminate()
    if not _answers(folder):
        tail = (folder / "dockerd.log").read_bytes()[-LOG_TAIL_BYTES:]
        raise SystemExit(f"dockerd did not start:\n{tail.decode(errors='replace')}")
    return _host(folder)


def stop(folder: Path) -> None:
    """End the engine by its pid file, wait until it is gone, and remove all it has written."""
    pid = _pid(folder)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        if not _until(lambda: not _is_engine(pid), STOP_S):
            raise SystemExit(f"The engine, process {pid}, does not end. Its data is in {folder}.")
    for mounted in _mounts(folder):
        subprocess.run(["/usr/bin/umount", mounted], check=True)  # noqa: S603 - below our folder
    if folder.exists():
        shutil.rmtree(folder)


def _mounts(folder: Path) -> list[str]:
    """List what the engine has left mounted in its folder, innermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return sorted(
        (at for at in (line.split()[1] for line in lines) if at.startswith(f"{folder}/")),
        reverse=True,
    )


def build_base_image(host: str) -> str:
    """Import an image that has this machine's Python and pip, and little else; return its name."""
    client = docker.APIClient(base_url=host, version="auto", timeout=120)
    try:
        with tempfile.NamedTemporaryFile(suffix=".tar") as file:
            _write_root(file)
            file.flush()
            name, tag = IMAGE.split(":")
            changes = [f"ENV PYTHONPATH=/{SITE}", "ENV PATH=/usr/local/bin:/usr/bin:/bin"]
            client.import_image_from_file(file.name, repository=name, tag=tag, changes=changes)
        client.inspect_image(IMAGE)
    finally:
        client.close()
    return IMAGE


def _configuration(*, with_gvisor: bool) -> dict[str, object]:
    if not with_gvisor:
        return {}
    path = shutil.which("runsc")
    if path is None:
        raise SystemExit("There is no runsc here. Install it, or leave --gvisor out.")
    # The ptrace platform is slow, and works on every machine, nested ones too.
    arguments = ["--platform=ptrace", "--network=none"]
    return {"runtimes": {"runsc": {"path": path, "runtimeArgs": arguments}}}


def _host(folder: Path) -> str:
    return f"unix://{folder / 'docker.sock'}"


def _answers(folder: Path) -> bool:
    try:
        client = docker.APIClient(base_url=_host(folder), version="auto", timeout=5)
    except docker.errors.DockerException:
        return False
    client.close()
    return True


def _pid(folder: Path) -> int | None:
    """Find the engine's process, if it is one and alive."""
    try:
        pid = int((folder / "docker.pid").read_text())
    except (OSError, ValueError):
        return None
    return pid if _is_engine(pid) else None


def _is_engine(pid: int) -> bool:
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return name == "dockerd" and state != "Z"


def _until(condition: Callable[[], bool], within_s: float) -> bool:
    give_up_at = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(LOOK_EVERY_S)
    return True


def _write_root(file: IO[bytes]) -> None:
    """Write the image's file system as a tar, each file where it lies on this machine."""
    program = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
        for path in (program, *_libraries(program, library)):
            tar.add(path, str(path).lstrip("/"), filter=_as_root)
        tar.add(library, str(library).lstrip("/"), filter=_as_root)
        _add_pip(tar)
        for name in ("python3", "python"):
            link = tarfile.TarInfo(f"usr/local/bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, str(program)
            tar.addfile(link)
        passwd = tarfile.TarInfo("etc/passwd")
        passwd.size = len(USERS)
        tar.addfile(passwd, BytesIO(USERS.encode()))
        for name in ("tmp", "proc", "sys", "dev"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)


def _add_pip(tar: tarfile.TarFile) -> None:
    """Add pip, compiled: it is large, and starts in every build."""
    pip = importlib.util.find_spec("pip")
    if pip is None or pip.origin is None:
        raise SystemExit("This Python has no pip, and the image needs one.")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "pip"
        shutil.copytree(Path(pip.origin).parent, copy)
        compileall.compile_dir(copy, quiet=2)
        tar.add(copy, f"{SITE}/pip", filter=_as_root)


def _libraries(program: Path, library: Path) -> Iterator[Path]:
    """List the shared libraries of the interpreter and of its modules, the loader among them."""
    binaries = [program, *sorted((library / "lib-dynload").glob("*.so"))]
    # It says so and fails when one of them cannot be loaded here; the image lacks that one too.
    listed = subprocess.run(  # noqa: S603 - files of this interpreter, no shell
        ["/usr/bin/ldd", *binaries], capture_output=True, text=True, check=False
    ).stdout
    found = {word for word in listed.split() if word.startswith("/") and not word.endswith(":")}
    # Loaded by name when a thread is cancelled, so that no binary lists it.
    for path in sorted(found):
        if Path(path).name.startswith("libc.so"):
            found |= {str(p) for p in [Path(path).with_name("libgcc_s.so.1")] if p.exists()}
            break
    yield from map(Path, sorted(found))


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(entry.name).parts
    if LEFT_OUT & set(parts) or parts[-1].startswith("config-"):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode |= 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["start", "base-image", "stop"])
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="its data and socket")
    parser.add_argument("--install", action="store_true", help="first apt-get install docker.io")
    parser.add_argument("--gvisor", action="store_true", help="give it the runtime runsc")
    asked = parser.parse_args()
    if asked.install and shutil.which("dockerd") is None:
        install(["docker.io", *(["runsc"] if asked.gvisor else [])])
    match asked.command:
        case "start":
            print(f"DOCKER_HOST={start(asked.folder, with_gvisor=asked.gvisor)}")
        case "base-image":
            print(f"SANDBOX_DOCKER_IMAGE={build_base_image(_host(asked.folder))}")
        case _:
            stop(asked.folder)


if __name__ == "__main__":
    main()
