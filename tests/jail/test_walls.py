"""The walls as a script meets them, in every tier that this machine offers."""

import os
from pathlib import Path

import pytest

from insula_jail import machine
from tests.jail.zygotes import KINDS, Zygotes, zygote

COMMON = {
    *("seccomp", "landlock", "no_new_privileges", "capabilities", "identity", "limits", "parent"),
    *("network", "ptrace", "new_namespaces", "mounting", "kernel", "host_files", "read_only"),
    *("processes", "signals", "descriptors", "environment"),
}
OF_TIER = {"A": {"namespaces", "root", "dumpable"}, "B": {"forking"}}
# What a script may try, and what comes of it: the name of an exception or of nothing.
TRY = """
import os, socket, ctypes
def outcome(attempt):
    try:
        attempt()
    except Exception as error:
        return type(error).__name__
    return "done"
libc = ctypes.CDLL(None, use_errno=True)
"""
# A filter of two tests: this call does not exist, every other is allowed.
DENY = """
import struct
from insula_jail import machine, seccomp
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, {number}), (0x06, 0, 0, 0x50026), (0x06, 0, 0, 0x7FFF0000)]
seccomp.install(b"".join(struct.pack("=HBBI", *step) for step in steps))
"""
# A kernel that knows no ambient capabilities: asked for them by prctl it says EINVAL.
NO_AMBIENT = """
import struct
from insula_jail import machine, seccomp
steps = [(0x20, 0, 0, 0), (0x15, 0, 3, {number}), (0x20, 0, 0, 16), (0x15, 0, 1, 47),
         (0x06, 0, 0, 0x50016), (0x06, 0, 0, 0x7FFF0000)]
seccomp.install(b"".join(struct.pack("=HBBI", *step) for step in steps))
"""


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def zygotes():
    with Zygotes() as started:
        yield started


@pytest.fixture
def jail(kind, zygotes):
    """A zygote without workers that other tests have used and will use."""
    yield zygotes.of(kind)
    zygotes.of(kind).settle()


@pytest.fixture
def worker(jail):
    return jail.ready()


@pytest.fixture
def planted():
    """A file that everybody may read and change, in a folder that everybody may."""
    path = Path("/var/tmp", f"insula-planted-{os.getpid()}")
    path.write_text("the secret")
    path.chmod(0o666)
    yield path
    path.unlink()


class TestReport:
    def test_every_wall_stands_around_the_zygotes_workers(self, kind, jail):
        walls = jail.first["walls"]

        assert walls.keys() == COMMON | OF_TIER[kind[0]]
        assert all(walls.values())

    def test_every_worker_asks_for_itself(self, jail):
        ready = jail.fork().hear()

        assert ready == {"t": "ready", "walls": jail.first["walls"]}


class TestFiles:
    def test_no_host_file_is_read_or_changed(self, worker, planted):
        said = worker.run(f"""{TRY}
path = {str(planted)!r}
set_result([
    outcome(lambda: open(path).read()),
    outcome(lambda: open(path, "w")),
    outcome(lambda: os.truncate(path, 0)),
    outcome(lambda: os.unlink(path)),
    outcome(lambda: os.rename(path, "mine")),
    outcome(lambda: os.link(path, "mine")),
    outcome(lambda: os.listdir(os.path.dirname(path))),
])""")

        assert said["error"] is None
        assert set(said["result"]) <= {"FileNotFoundError", "PermissionError", "OSError"}
        assert planted.read_text() == "the secret"

    def test_no_host_file_changes_its_mode_or_times(self, worker, planted):
        before = planted.stat()

        worker.run(f"""{TRY}
path = {str(planted)!r}
outcome(lambda: os.chmod(path, 0))
outcome(lambda: os.utime(path, (0, 0)))
outcome(lambda: os.chown(path, os.getuid(), os.getgid()))""")

        after = planted.stat()
        assert (after.st_mode, after.st_mtime, after.st_uid) == (
            before.st_mode,
            before.st_mtime,
            before.st_uid,
        )

    def test_own_files_are_written_copied_and_removed(self, worker):
        said = worker.run("""
import os, shutil, tempfile
with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, "a"), "w") as file:
        file.write("text")
    shutil.copy2(os.path.join(folder, "a"), os.path.join(folder, "b"))
    os.rename(os.path.join(folder, "b"), "c")
set_result([open("c").read(), os.getcwd() == os.environ["HOME"] == tempfile.gettempdir()])""")

        assert said["result"] == ["text", True]

    def test_nothing_that_was_written_is_executed(self, worker):
        said = worker.run(f"""{TRY}
import mmap
with open("program", "wb") as file:
    file.write(bytes(4096))
os.chmod("program", 0o755)
set_result(outcome(lambda: os.execv("program", ["program"])))""")

        assert said["result"] == "PermissionError"


class TestOthers:
    def test_the_server_and_its_zygote_cannot_be_signalled(self, jail):
        said = jail.ready().run(f"""{TRY}
set_result([
    outcome(lambda pid=pid: os.kill(pid, 9))
    for pid in ({os.getpid()}, {jail.process.pid}, os.getppid() or {os.getpid()}, -1)
])""")

        assert set(said["result"]) <= {"PermissionError", "ProcessLookupError"}
        assert jail.process.poll() is None

    def test_no_socket_reaches_anybody(self, worker):
        said = worker.run(f"""{TRY}
kinds = [(2, 1), (2, 2), (10, 1), (1, 1), (1, 2), (16, 3), (17, 3)]
set_result([outcome(lambda k=k: socket.socket(*k)) for k in kinds])""")

        assert set(said["result"]) == {"PermissionError"}

    def test_an_event_loop_works_without_any(self, worker):
        said = worker.run("""
import asyncio
async def answer():
    return await asyncio.to_thread(lambda: 42)
set_result(asyncio.run(answer()))""")

        assert said["result"] == 42

    def test_nothing_of_the_server_is_in_the_environment(self, worker):
        said = worker.run("import os; set_result(sorted(os.environ))")

        assert said["result"] == sorted(
            [
                *("HOME", "LANG", "MALLOC_ARENA_MAX", "MPLCONFIGDIR", "OMP_NUM_THREADS"),
                *("OPENBLAS_NUM_THREADS", "PATH", "TMPDIR", "USER"),
            ]
        )

    def test_only_the_frames_and_the_standard_streams_are_open(self, worker):
        said = worker.run(f"""{TRY}
set_result([n for n in range(64) if outcome(lambda n=n: os.fstat(n)) == "done"])""")

        assert said["result"] == [0, 1, 2, 3]


class TestKernel:
    def test_no_new_user_namespace_is_made(self, worker):
        said = worker.run(f"{TRY}set_result([libc.unshare(0x10000000), ctypes.get_errno()])")

        assert said["result"] == [-1, 1]


class TestMissing:
    """No wall is optional: where the kernel refuses one, no worker comes to be."""

    @pytest.mark.parametrize(
        ("call", "wall"),
        [
            ("landlock_create_ruleset", "landlock"),
            ("landlock_restrict_self", "landlock"),
            ("seccomp", "seccomp"),
            ("capset", "capabilities"),
            ("close_range", "descriptors"),
            ("prlimit64", "limits"),
        ],
    )
    @pytest.mark.parametrize("kind", ["A-user", "B-root"])
    def test_is_refused_and_named_in_every_tier(self, kind, call, wall):
        number = machine.this_machine().number(call)

        with zygote(kind, before=DENY.format(number=number)) as jail:
            assert jail.first["t"] == "refused"
            # As root without namespaces a capability is given up before anything else.
            expected = "identity" if (kind, call) == ("B-root", "capset") else wall
            assert jail.first["wall"] == expected
            assert jail.process.wait(5) == 1

    @pytest.mark.parametrize("kind", ["A-root"])
    @pytest.mark.parametrize(
        ("call", "wall"),
        [
            ("unshare", "namespaces"),
            ("mount", "root"),
            ("mount_setattr", "root"),
            ("pivot_root", "root"),
            ("umount2", "root"),
            ("sethostname", "namespaces"),
        ],
    )
    def test_is_refused_and_named_in_tier_a(self, kind, call, wall):
        number = machine.this_machine().number(call)

        with zygote(kind, before=DENY.format(number=number)) as jail:
            assert jail.first["t"] == "refused"
            assert jail.first["wall"] == wall

    @pytest.mark.parametrize("kind", ["A-root", "B-user"])
    def test_a_kernel_without_ambient_capabilities_has_none_to_take(self, kind):
        number = machine.this_machine().number("prctl")

        with zygote(kind, before=NO_AMBIENT.format(number=number)) as jail:
            assert jail.first["t"] == "ready"
            assert jail.ready().run("set_result(1)")["result"] == 1

    @pytest.mark.parametrize("kind", ["A-user", "B-root"])
    def test_an_unknown_machine_is_refused(self, kind):
        strange = "import os, types; os.uname = lambda: types.SimpleNamespace(machine='pdp11')"

        with zygote(kind, before=strange) as jail:
            assert jail.first["t"] == "refused"
            assert jail.first["wall"] == "architecture"
            assert "pdp11" in jail.first["why"]
