"""Attacks on what the server's machine has: files, secrets and sockets, in every tier it offers."""

import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import pytest_asyncio

import insula_jail
from app.modules.sandbox.adapters.jail.zygote import Zygote
from tests.jail.zygotes import KINDS, Zygotes
from tests.modules.sandbox.attacks import NEXT, REFUSED, TOOLS, attack
from tests.modules.sandbox.jails import (
    TIERS,
    Tier,
    descendants,
    open_template,
    passable_folder,
    run_script,
)
from tests.waiting import until

# As a whole it is in no source, so that whoever finds it has found the server's.
HALVES = (token_hex(16), token_hex(16))
SECRET = "".join(HALVES)
METADATA = ("169.254.169.254", 80)
NO_FILE = {*REFUSED, "OSError", "IsADirectoryError", "FileExistsError"}
LOOK_EVERYWHERE = """
import gc
needle = "".join(halves)
def holds(path):
    try:
        with open(path, "rb") as file:
            return needle.encode() in file.read(1 << 20)
    except (OSError, ValueError):
        return False
numbers = [str(n) for n in range(1, 5000)] + ["self"]
parts = ["environ", "cmdline", "maps", "mountinfo", "comm", "task/1/environ"]
found = [f"{n}/{part}" for n in numbers for part in parts if holds(f"/proc/{n}/{part}")]
found += [name for name, value in os.environ.items() if needle in value]
for n in range(3, 256):
    try:
        os.lseek(n, 0, os.SEEK_SET)
        found += [f"file {n}"] if needle.encode() in os.read(n, 1 << 20) else []
    except OSError:
        pass
def inside(value):
    if isinstance(value, (bytes, bytearray)):
        return needle.encode() in value
    return isinstance(value, str) and needle in value and value is not needle
seen = 0
gc.unfreeze()
for holder in gc.get_objects():
    for value in gc.get_referents(holder):
        seen += 1
        if inside(value):
            found.append(repr(type(holder)))
found += [argument for argument in sys.argv + sys.orig_argv if needle in argument]
set_result([found, seen > 10_000])
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


@pytest.fixture(scope="module")
def planted() -> Iterator[Path]:
    """What a careless server leaves: data that everybody may read and change."""
    with passable_folder() as folder:
        folder.chmod(0o777)
        for name in ("secret", ".env", "app.db"):
            (folder / name).write_text(SECRET)
            (folder / name).chmod(0o666)
        yield folder


@pytest.fixture(scope="module")
def leaky(planted: Path) -> Iterator[None]:
    """A server that has a secret in its environment and in a file that its children inherit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSULA_PLANTED", SECRET)
        descriptor = os.open(planted / "secret", os.O_RDWR)
        os.set_inheritable(descriptor, True)
        yield
        os.close(descriptor)


@pytest.fixture(params=TIERS, scope="module")
def tier(request: pytest.FixtureRequest) -> Tier:
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def template(tier: Tier, leaky: None) -> AsyncIterator[Zygote]:
    async with open_template(tier) as opened:
        yield opened


async def ask(template: Zygote, code: str, **names: Any) -> Any:
    """The result of a script, after which no worker is left and the next one works."""
    given = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    asked = await run_script(template, TOOLS + given + code)
    after = await run_script(template, NEXT)
    assert after.done is not None
    assert after.done["result"] == "next"
    # The zygote is one, and in tier A has the keeper above it.
    await until(lambda: len(descendants(template)) == 1)
    assert asked.done is not None, asked.gone
    assert asked.done["error"] is None
    return asked.done["result"]


class TestFiles:
    def test_none_of_the_servers_is_read_changed_or_taken(self, jail, planted):
        tried = attack(
            jail,
            """
def each(path):
    return [outcome(lambda a=a: a(path)) for a in (
        lambda p: open(p).read(), lambda p: open(p, "a"), lambda p: open(p, "r+"),
        lambda p: os.open(p, os.O_RDONLY | os.O_TRUNC), lambda p: os.open(p, 3 | os.O_TRUNC),
        lambda p: os.truncate(p, 0), os.unlink, lambda p: os.rename(p, "mine"),
        lambda p: os.link(p, "mine"), lambda p: os.replace("own", p), lambda p: os.link("own", p),
        lambda p: os.symlink("own", p + "-new"), lambda p: os.mkdir(p + "-new"),
        lambda p: os.open(p + "-new", os.O_CREAT | os.O_WRONLY),
        lambda p: os.setxattr(p, "user.x", b""),
        lambda p: os.chown(p, os.getuid(), -1), lambda p: os.listdir(os.path.dirname(p)),
        lambda p: os.open(os.path.dirname(p), os.O_TMPFILE | os.O_RDWR),
    )]
open("own", "x").close()
set_result([each(path) for path in paths])""",
            paths=[str(planted / name) for name in ("secret", ".env", "app.db")],
        )

        assert {answer for one in tried.result for answer in one} <= NO_FILE
        assert sorted(path.name for path in planted.iterdir()) == [".env", "app.db", "secret"]
        assert {path.read_text() for path in planted.iterdir()} == {SECRET}

    def test_no_mode_or_time_of_the_servers_changes(self, jail, planted):
        path = planted / "secret"
        before = path.stat()

        attack(
            jail,
            """
outcome(lambda: os.chmod(path, 0))
outcome(lambda: os.utime(path, (0, 0)))
held = outcome(lambda: os.open(path, os.O_PATH))
if isinstance(held, int):
    outcome(lambda: os.chmod(f"/proc/self/fd/{held}", 0))
    outcome(lambda: os.utime(f"/proc/self/fd/{held}", (0, 0)))""",
            path=str(path),
        )

        after = path.stat()
        assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)

    def test_what_the_system_keeps_for_itself_is_out_of_reach(self, jail):
        tried = attack(
            jail,
            """
files = ["/etc/shadow", "/etc/hostname", "/etc/machine-id", "/etc/resolv.conf", "/proc/kcore",
         "/proc/kallsyms", "/proc/keys", "/proc/net/unix", "/proc/cmdline", "/dev/mem", "/dev/kmsg",
         "/dev/vda", "/dev/sda", "/dev/tty", "/dev/ptmx", "/dev/fuse", "/dev/kvm", "/dev/net/tun",
         "/var/run/docker.sock", "/run/docker.sock", "/sys/kernel/vmcoreinfo",
         "/root/.ssh/id_rsa", "/root/.bash_history"]
folders = ["/", "/root", "/home", "/var", "/sys", "/run", "/run/insula", "/boot", "/mnt"]
set_result([outcome(lambda p=p: open(p, "rb").read(1)) for p in files]
           + [outcome(lambda p=p: os.listdir(p)) for p in folders])""",
        )

        assert set(tried.result) <= NO_FILE

    def test_nothing_is_written_beside_the_workers_own_folder(self, jail):
        places = ["/", "/usr", "/usr/lib", "/etc", "/dev", "/run", "/var/tmp", sys.prefix]
        tried = attack(
            jail,
            """
set_result([outcome(lambda p=p: open(p + "/insula-was-here", "x")) for p in places]
           + [outcome(lambda p=p: open(p, "r+b")) for p in files])""",
            places=[*places, str(Path(insula_jail.__file__).parent)],
            files=["/usr/bin/env", "/etc/passwd", "/etc/ld.so.cache", insula_jail.__file__],
        )

        assert set(tried.result) <= NO_FILE

    def test_no_link_or_rename_carries_a_right_to_another_place(self, jail, planted):
        tried = attack(
            jail,
            """
os.mkdir("inner")
os.symlink("/usr", "usr")
os.symlink(planted, "planted")
held = os.open("/usr/bin/env", os.O_RDONLY)
set_result([
    outcome(lambda: os.rename("/usr/bin/env", "env")),
    outcome(lambda: os.link("/usr/bin/env", "env")),
    outcome(lambda: os.link("/proc/self/fd/" + str(held), "env", follow_symlinks=True)),
    outcome(lambda: open("usr/insula-was-here", "x")),
    outcome(lambda: open("planted/secret").read()),
    outcome(lambda: os.rename("inner", "/usr/inner")),
    outcome(lambda: os.open("/proc/self/fd/" + str(held), os.O_RDWR)),
    outcome(lambda: os.open(".", os.O_RDONLY, dir_fd=held)),
])""",
            planted=str(planted),
        )

        assert set(tried.result) <= NO_FILE

    def test_no_device_socket_or_program_is_made(self, jail):
        tried = attack(
            jail,
            """
import stat
with open("program", "wb") as file:
    file.write(open("/usr/bin/env", "rb").read())
os.chmod("program", 0o6755)
set_result([
    *(outcome(lambda kind=kind: os.mknod("made", kind | 0o666, os.makedev(1, 1)))
      for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)),
    outcome(lambda: os.execv("./program", ["program"])),
    outcome(lambda: os.execve(os.open("program", os.O_RDONLY), ["program"], {})),
])""",
        )

        assert set(tried.result) == {"PermissionError"}


class TestSecrets:
    @pytest.mark.asyncio(loop_scope="module")
    async def test_of_the_server_are_nowhere_behind_the_wall(self, template):
        assert os.environ["INSULA_PLANTED"] == SECRET

        found, is_thorough = await ask(template, LOOK_EVERYWHERE, halves=HALVES)

        assert is_thorough
        assert found == []

    @pytest.mark.asyncio(loop_scope="module")
    async def test_only_the_frames_and_the_standard_streams_are_open(self, template):
        opened = await ask(
            template,
            "set_result([n for n in range(1024) if isinstance(outcome(lambda: os.fstat(n)), "
            "os.stat_result)])",
        )

        assert opened == [0, 1, 2, 3]

    @pytest.mark.asyncio(loop_scope="module")
    async def test_of_one_script_are_not_there_for_the_next(self, template):
        leave = "held = ''.join(halves); open('left', 'w').write(held); os.environ['LEFT'] = held"
        await ask(template, f"{leave}\nsys.modules['left'] = held", halves=HALVES)

        found, _ = await ask(template, LOOK_EVERYWHERE, halves=HALVES)
        left = await ask(template, "set_result([os.listdir('.'), 'left' in sys.modules])")

        assert found == []
        assert left == [[], False]


class TestSockets:
    @pytest.mark.parametrize("way", ["socket", "pair"])
    def test_no_kind_is_made_that_could_reach_anybody(self, jail, way):
        tried = attack(
            jail,
            """
known = {"x86_64": (41, 53), "aarch64": (198, 199)}[os.uname().machine]
room = ctypes.create_string_buffer(8)
def made(family, kind):
    if way == "socket":
        return call(known[0], family, kind, 0)
    return call(known[1], family, kind, 0, ctypes.addressof(room))
set_result([made(family, kind) for family in range(1, 46) for kind in (1, 2, 3, 4, 5, 6, 10)
            if (way, family, kind) not in (("pair", 1, 1), ("pair", 1, 5))])""",
            way=way,
        )

        assert all(answer == [-1, 1] for answer in tried.result)

    def test_no_address_is_reached_and_no_name_is_found(self, jail):
        with self.listening() as (listeners, addresses):
            tried = attack(
                jail,
                """
import urllib.request
def connected(family, address):
    with socket.socket(family) as made:
        made.settimeout(1)
        made.connect(address)
    return "connected"
ours, _ = socket.socketpair()
set_result([
    *(outcome(lambda f=f, a=a: connected(f, a)) for f, a in addresses),
    *(outcome(lambda f=f, a=a: ours.connect(a)) for f, a in addresses),
    outcome(lambda: socket.create_connection(("127.0.0.1", 22), 1)),
    outcome(lambda: socket.getaddrinfo("example.com", 80)),
    outcome(lambda: socket.gethostbyname("metadata.google.internal")),
    outcome(lambda: urllib.request.urlopen("http://169.254.169.254/latest/meta-data", timeout=1)),
])""",
                addresses=addresses,
            )

            assert set(tried.result) <= {
                *("PermissionError", "gaierror", "URLError", "TypeError", "OSError"),
            }
            for listener in listeners:
                with pytest.raises(BlockingIOError):
                    listener.accept()

    def test_a_pair_of_sockets_carries_no_descriptor_and_no_option(self, jail):
        tried = attack(
            jail,
            """
ours, theirs = socket.socketpair()
set_result([
    outcome(lambda: socket.send_fds(ours, [b"x"], [0])),
    outcome(lambda: ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)),
    outcome(lambda: ours.setsockopt(socket.SOL_SOCKET, 26, bytes(16))),
    outcome(lambda: ours.bind("mine")),
    outcome(lambda: ours.listen(1)),
    outcome(lambda: ours.send(b"fine")),
])""",
        )

        *refused, sent = tried.result
        assert set(refused) == {"PermissionError"}
        assert sent == 4

    @staticmethod
    @contextlib.contextmanager
    def listening() -> Iterator[tuple[list[socket.socket], list[tuple[int, Any]]]]:
        """Sockets of the server on every way that could lead from a jail to it."""
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(passable_folder())
            places: list[tuple[int, Any]] = [
                (socket.AF_INET, ("127.0.0.1", 0)),
                (socket.AF_UNIX, f"\0insula-{token_hex(4)}"),
                (socket.AF_UNIX, str(folder / "socket")),
            ]
            listeners = []
            for family, place in places:
                listener = stack.enter_context(socket.socket(family))
                listener.bind(place)
                listener.listen()
                listener.setblocking(False)
                listeners.append(listener)
            (folder / "socket").chmod(0o777)
            addresses = [(int(one.family), _address(one)) for one in listeners]
            yield listeners, [*addresses, (int(socket.AF_INET), METADATA)]


def _address(listener: socket.socket) -> Any:
    name = listener.getsockname()
    return name.decode() if isinstance(name, bytes) else name
