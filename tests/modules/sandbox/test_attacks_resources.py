"""Attacks on what all share: processes, memory, disk. All are bounded, should a wall be missing."""

import pytest

from app.modules.sandbox.ports import TemplateSpec
from tests.jail.zygotes import KINDS, LIMITS, Zygotes, zygote
from tests.modules.sandbox.attacks import NEXT, TOOLS, attack
from tests.modules.sandbox.jails import TIERS, open_runner, passable_folder, run_script
from tests.waiting import until

NAMESPACED = [kind for kind in KINDS if kind.startswith("A")]
ALONE = [kind for kind in KINDS if kind.startswith("B")]
MOST_FORKS = 500
FORK_BOMB = """
made, error = 0, ""
try:
    while made < most:
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
except OSError as raised:
    error = type(raised).__name__
set_result([made, error])
"""
# Every process makes more of them, in sessions of their own, and none listens to a signal.
FORK_TREE = """
import signal
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_IGN)
end = time.monotonic() + 0.3
for _ in range(most):
    if time.monotonic() > end:
        break
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        time.sleep(0.01)
"""
THREAD_BOMB = """
import threading
threading.stack_size(65536)
started, error = 0, ""
try:
    while started < most:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        started += 1
except RuntimeError as raised:
    error = type(raised).__name__
set_result([started, error])
time.sleep(0 if error else 5)
"""
SUBPROCESS_STORM = """
import subprocess
started, error = 0, ""
try:
    while started < most:
        subprocess.Popen(["/usr/bin/env", "sleep", "60"])
        started += 1
except OSError as raised:
    error = type(raised).__name__
set_result([started, error])
"""
# The call itself, for Python's own maps keep a descriptor and tell its length.
MAP = """
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
def mapped(length, flags, file=-1):
    at = libc.mmap(None, length, 3, flags, file, 0)
    if at in (None, 2**64 - 1):
        error = ctypes.get_errno()
        raise MemoryError if error == 12 else OSError(error, "mmap")
    return at
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def filled(length):
    at = libc.malloc(length)
    if at is None:
        raise MemoryError
    return libc.memset(at, 1, length)
SHARED, PRIVATE, ANONYMOUS, POPULATE, HUGE = 1, 2, 0x20, 0x8000, 0x40000
"""
IN_ONE_PROCESS = {
    "bytearray": "bytearray(most << 20)",
    "text": "'x' * (most << 20)",
    "list": "[[0] * 131072 for _ in range(most)]",
    "map": "[mapped(8 << 20, PRIVATE | ANONYMOUS | POPULATE) for _ in range(most // 8)]",
    "malloc": "[filled(8 << 20) for _ in range(most // 8)]",
}
SHARED = {
    "shared map": "mapped(1 << 20, SHARED | ANONYMOUS)",
    "validated map": "mapped(1 << 20, 3 | ANONYMOUS)",
    "reserved pages": "mapped(2 << 20, PRIVATE | ANONYMOUS | HUGE)",
    "zeros": "mapped(1 << 20, SHARED, os.open('/dev/zero', os.O_RDWR))",
    "zeros to read": "mapped(1 << 20, SHARED, os.open('/dev/zero', os.O_RDONLY))",
    "memfd": "os.memfd_create('x')",
    "shmget": "call({'x86_64': 29, 'aarch64': 194}[os.uname().machine], 0, 1 << 20, 0o1600)[1]",
}
MEMORY_OF_MANY = """
for _ in range(7):
    if os.fork() == 0:
        break
held = bytearray(60 << 20)
time.sleep(60)
"""
BUFFERS_OF_MANY = """
held = []
for _ in range(12):
    if os.fork() == 0:
        break
try:
    while True:
        held += socket.socketpair()
        for end in held[-2:]:
            end.setblocking(False)
            try:
                while True:
                    end.send(bytes(65536))
            except BlockingIOError:
                pass
except OSError:
    time.sleep(60)
"""
PIECE = "piece = bytes(4 << 20)\n"
ON_DISK = {
    "one file": "with open('one', 'wb', 0) as file:\n    for _ in range(50): file.write(piece)",
    "many files": "for n in range(50): open(str(n), 'wb', 0).write(piece)",
    "inodes": "for n in range(5000): open(str(n), 'x').close()",
    "links": "for n in range(5000): os.symlink('x', str(n))",
    "deep": "for n in range(5000):\n    os.mkdir('d'); os.chdir('d')",
}
# Files that have no name any more, and of which a descriptor or only a map is left.
WITHOUT_A_NAME = {
    "open": "held.append(os.dup(file))",
    "mapped": "mapped(4096, PRIVATE, file)",
    "shared": "mapped(4096, SHARED, file)",
    "sent": "held += socket.socketpair(); socket.send_fds(held[-1], [b'x'], [file])",
}
# The sibling of a thread that has left has the files.
IN_ANOTHER_THREAD = """
import threading
def go_on():
    held = []
    for n in range(50):
        file = os.open("x", os.O_RDWR | os.O_CREAT)
        os.write(file, bytes(4 << 20))
        os.unlink("x")
        held.append(file)
    time.sleep(60)
threading.Thread(target=go_on).start()
call({"x86_64": 60, "aarch64": 93}[os.uname().machine])
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


class TestProcesses:
    @pytest.mark.parametrize("kind", NAMESPACED)
    @pytest.mark.parametrize("bomb", [FORK_BOMB, SUBPROCESS_STORM], ids=["forks", "subprocesses"])
    def test_a_bomb_meets_the_limit_of_its_own_worker(self, jail, bomb):
        tried = attack(jail, bomb, most=MOST_FORKS)

        made, error = tried.result
        assert (made, error) == (LIMITS["processes"] - 1, "BlockingIOError")

    @pytest.mark.parametrize("kind", ALONE)
    @pytest.mark.parametrize("bomb", [FORK_BOMB, SUBPROCESS_STORM], ids=["forks", "subprocesses"])
    def test_there_is_none_without_namespaces(self, jail, bomb):
        tried = attack(jail, bomb, most=MOST_FORKS)

        assert tried.result == [0, "PermissionError"]

    @pytest.mark.parametrize("kind", NAMESPACED)
    def test_a_tree_that_ignores_all_signals_goes_with_its_worker(self, jail):
        tried = attack(jail, FORK_TREE, most=MOST_FORKS)

        assert (tried.gone["code"], tried.gone["reason"]) == (0, "")

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "B-user"])
    def test_a_bomb_of_threads_meets_the_limit_of_its_own_worker(self, jail):
        tried = attack(jail, THREAD_BOMB, most=MOST_FORKS)

        started, error = tried.result
        assert started < LIMITS["processes"]
        assert error == "RuntimeError"

    @pytest.mark.parametrize("kind", ["B-user"])
    def test_without_a_user_of_its_own_the_watchdog_counts_threads(self, jail):
        tried = attack(jail, THREAD_BOMB, most=MOST_FORKS)

        assert (tried.done, tried.gone["reason"]) == (None, "memory")


class TestMemory:
    @pytest.mark.parametrize("way", IN_ONE_PROCESS)
    def test_of_one_process_is_an_error_of_the_script(self, jail, way):
        tried = attack(jail, f"{MAP}\nheld = {IN_ONE_PROCESS[way]}", most=1024)

        if tried.done is None:
            assert tried.gone["reason"] == "memory"
        else:
            assert "MemoryError" in tried.error

    @pytest.mark.parametrize("way", SHARED)
    def test_that_no_limit_counts_is_not_given(self, jail, way):
        tried = attack(jail, f"{MAP}\nset_result(outcome(lambda: {SHARED[way]}))")

        assert tried.result in ("PermissionError", "FileNotFoundError", 1)

    @pytest.mark.parametrize("kind", NAMESPACED)
    def test_of_many_processes_is_counted_together(self, jail):
        tried = attack(jail, MEMORY_OF_MANY)

        assert (tried.done, tried.gone["reason"]) == (None, "memory")
        assert LIMITS["memory_mb"] * 1024 < tried.gone["peak_kb"]

    @pytest.mark.parametrize("kind", NAMESPACED)
    def test_of_many_sockets_is_counted_too(self, kind):
        with zygote(kind, memory_mb=100) as jail:
            tried = attack(jail, BUFFERS_OF_MANY)

        assert (tried.done, tried.gone["reason"]) == (None, "memory")

    @pytest.mark.parametrize("kind", NAMESPACED)
    @pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
    def test_of_files_that_lie_in_it_has_a_limit_too(self, jail, folder):
        tried = attack(
            jail,
            f"{PIECE}os.chdir({folder!r})\nfor n in range(50): open(str(n), 'wb').write(piece)",
        )

        assert "No space left on device" in tried.error


class TestDisk:
    @pytest.mark.parametrize("way", ON_DISK)
    def test_has_a_limit_in_every_way(self, jail, way):
        tried = attack(jail, f"{PIECE}{ON_DISK[way]}\ntime.sleep(60)")

        if tried.done is None:
            assert tried.gone["reason"] == "disk"
        else:
            assert any(
                said in tried.error for said in ("No space left on device", "File too large")
            )

    def test_a_file_may_be_sparse_and_no_larger_than_one(self, jail):
        tried = attack(
            jail,
            """
file = os.open("sparse", os.O_RDWR | os.O_CREAT)
set_result([
    outcome(lambda: os.truncate(file, 1 << 40)),
    outcome(lambda: os.ftruncate(file, 1 << 40)),
    outcome(lambda: os.posix_fallocate(file, 0, 1 << 30)),
    outcome(lambda: os.pwrite(file, b"x", 1 << 40)),
])""",
        )

        assert set(tried.result) == {"OSError"}

    @pytest.mark.parametrize("kind", ALONE)
    @pytest.mark.parametrize("way", WITHOUT_A_NAME)
    def test_files_without_a_name_are_counted(self, jail, way):
        tried = attack(
            jail,
            f"""{MAP}
held = []
for n in range(20):
    file = os.open("x", os.O_RDWR | os.O_CREAT)
    os.write(file, bytes(4 << 20))
    os.unlink("x")
    {WITHOUT_A_NAME[way]}
    os.close(file)
time.sleep(60)""",
        )

        if way == "sent":
            assert "PermissionError" in tried.error
        else:
            assert (tried.done, tried.gone["reason"]) == (None, "disk")

    @pytest.mark.parametrize("kind", ALONE)
    def test_files_of_a_thread_that_goes_on_alone_are_counted(self, jail):
        tried = attack(jail, IN_ANOTHER_THREAD)

        assert tried.gone["reason"] == "disk"

    @pytest.mark.parametrize("kind", ALONE)
    def test_many_maps_are_not_looked_through_for_ever(self, jail):
        tried = attack(
            jail,
            f"""{MAP}
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
room = mapped(50_000 * 4096, PRIVATE | ANONYMOUS)
for page in range(0, 50_000, 2):
    libc.mprotect(room + page * 4096, 4096, 1)
time.sleep(60)""",
        )

        assert (tried.done, tried.gone["reason"]) == (None, "disk")


class TestWatchdog:
    @pytest.mark.parametrize("kind", ["A-root", "B-user"])
    def test_no_name_of_a_process_misleads_it(self, kind):
        with zygote(kind, cpu_s=1) as jail:
            tried = attack(
                jail,
                """
for name in (b"x) R 1 1 1 1 1 1", b"a\\nRssAnon: 0 kB", b") Z ("):
    libc.prctl(15, name, 0, 0, 0)
while True: pass""",
            )

        assert (tried.done, tried.gone["reason"]) == (None, "cpu")

    @pytest.mark.parametrize("kind", NAMESPACED)
    def test_it_sees_the_memory_of_who_ended_its_first_thread(self, jail):
        tried = attack(
            jail,
            """
import threading
def go_on():
    if os.fork() == 0:
        threading.Thread(target=hold).start()
        call({"x86_64": 60, "aarch64": 93}[os.uname().machine])
    hold()
def hold():
    held = bytearray(150 << 20)
    time.sleep(60)
threading.Thread(target=go_on).start()
call({"x86_64": 60, "aarch64": 93}[os.uname().machine])""",
        )

        assert (tried.done, tried.gone["reason"]) == (None, "memory")


class TestScratch:
    """What a script leaves is removed by the server, which follows nothing of it."""

    LEAVE = """
import stat
os.symlink(planted, "link")
os.symlink(os.path.dirname(planted), "folder")
os.symlink("loop", "loop")
left = [outcome(lambda: os.link(planted, "hard")), outcome(lambda: os.mkfifo("pipe")),
        outcome(lambda: os.mknod("device", stat.S_IFCHR | 0o600, os.makedev(1, 3)))]
os.ftruncate(os.open("sparse", os.O_RDWR | os.O_CREAT), 8 << 20)
os.mkdir("closed"); os.mkdir("closed/inner"); open("closed/inner/x", "x").close()
os.chmod("closed", 0)
open(b"\\xff\\n-rf *", "x").close()
for _ in range(60):
    os.mkdir("d"); os.chdir("d")
set_result(left)
"""

    @pytest.mark.parametrize("tier", TIERS)
    async def test_is_gone_and_what_it_led_to_is_not(self, tier):
        with passable_folder() as folder:
            planted = folder / "planted"
            planted.write_text("the secret")
            planted.chmod(0o666)
            async with open_runner(tier, folder / "data") as runner:
                template = await runner.prepare(TemplateSpec("test"))
                outcome = await run_script(
                    template, f"{TOOLS}planted = {str(planted)!r}\n{self.LEAVE}"
                )
                await until(lambda: not list((folder / "data").glob("jail-*/*/*")))
                after = await run_script(template, NEXT)

            assert planted.read_text() == "the secret"
            assert planted.stat().st_nlink == 1
        assert outcome.done is not None
        assert outcome.done["error"] is None
        refused = {"FileNotFoundError", "PermissionError", "OSError"}
        assert set(outcome.done["result"]) <= refused
        assert after.done is not None
        assert after.done["result"] == "next"
