"""Attacks on the kernel and on other processes, in every tier that this machine offers."""

import os
import platform
import signal
from pathlib import Path

import pytest

from insula_jail import machine
from tests.jail.zygotes import KINDS, Zygotes, descendants, is_alive, workers_of
from tests.modules.sandbox.attacks import NEXT, REFUSED, TOOLS, attack, numbers
from tests.waiting import until

NAMESPACED = [kind for kind in KINDS if kind.startswith("A")]
EPERM, ENOSYS = 1, 38
NAMESPACES = {
    "user": machine.CLONE_NEWUSER,
    "mnt": machine.CLONE_NEWNS,
    "pid": machine.CLONE_NEWPID,
    "net": machine.CLONE_NEWNET,
    "ipc": machine.CLONE_NEWIPC,
    "uts": machine.CLONE_NEWUTS,
    "cgroup": machine.CLONE_NEWCGROUP,
}
CALLS = (
    *("bpf", "keyctl", "add_key", "request_key", "perf_event_open", "userfaultfd", "personality"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register", "io_setup", "io_submit"),
    *("open_by_handle_at", "name_to_handle_at", "ptrace", "process_vm_readv", "kcmp", "syslog"),
    *("process_vm_writev", "pidfd_getfd", "process_madvise", "process_mrelease", "seccomp"),
    *("mount", "umount2", "pivot_root", "chroot", "fsopen", "fsmount", "open_tree", "move_mount"),
    *("mount_setattr", "unshare", "setns", "setuid", "setresuid", "setgroups", "capset", "acct"),
    *("landlock_create_ruleset", "landlock_restrict_self", "init_module", "kexec_load", "swapon"),
    *("memfd_create", "memfd_secret", "shmget", "msgget", "semget", "mq_open", "mknodat", "mbind"),
    *("fanotify_init", "inotify_init1", "inotify_add_watch", "quotactl", "reboot", "sync", "iopl"),
    *("sethostname", "settimeofday", "clock_settime", "modify_ldt", "vmsplice", "move_pages"),
    *(
        "timer_create",
        "socket",
        "connect",
        "bind",
        "listen",
        "accept4",
        "sendmsg",
        "sendmmsg",
        "setsockopt",
    ),
)
# Machine code that makes a call by the door of the 32-bit kernel: getpid there.
BY_INTERRUPT = """
import mmap
room = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
room.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(room)))())
"""
# The first thread ends, and another one goes on.
LEAVE_A_THREAD = """
import threading
def burn():
    print("armed", flush=True)
    while True: pass
threading.Thread(target=burn).start()
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


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def other_threads(pid: int) -> set[int]:
    return {int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()} - {pid}


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class TestCalls:
    def test_none_of_the_kernels_weak_spots_is_reached(self, jail):
        tried = attack(
            jail,
            "set_result({name: call(number, 0, 0, 0, 0, 0, 0) for name, number in calls.items()})",
            calls=numbers(*CALLS),
        )

        allowed = {name: said for name, said in tried.result.items() if said != [-1, EPERM]}
        assert allowed == {}

    def test_no_number_above_the_known_ones_is_a_call(self, jail):
        tried = attack(
            jail,
            "set_result([call(number, 0, 0, 0, 0, 0, 0) for number in range(first, first + 60)])",
            first=machine.LAST_KNOWN_CALL + 1,
        )

        assert all(said == [-1, ENOSYS] for said in tried.result)

    def test_no_namespace_is_made_or_entered_in_any_way(self, jail):
        known = numbers("unshare", "clone", "clone3", "setns")
        tried = attack(
            jail,
            """
own = outcome(lambda: os.open("/proc/self/ns/net", os.O_RDONLY))
set_result([
    *(call(known["unshare"], flag) for flag in flags),
    *(call(known["clone"], flag | 17, 0, 0, 0, 0) for flag in flags),
    *(call(known["setns"], own if isinstance(own, int) else 0, flag) for flag in flags),
    call(known["clone3"], ctypes.addressof(ctypes.create_string_buffer(88)), 88),
])""",
            known=known,
            flags=list(NAMESPACES.values()),
        )

        *others, clone3 = tried.result
        assert all(said == [-1, EPERM] for said in others)
        assert clone3 == [-1, ENOSYS]

    def test_no_limit_is_raised(self, jail):
        tried = attack(
            jail,
            """
import resource
kinds = [value for name, value in vars(resource).items() if name.startswith("RLIMIT_")]
def raised(kind):
    hard = resource.getrlimit(kind)[1]
    if hard == resource.RLIM_INFINITY:
        return "unlimited"
    resource.setrlimit(kind, (hard + 1, hard + 1))
    return "raised"
held = [resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE,
        resource.RLIMIT_CORE, resource.RLIMIT_RTPRIO, resource.RLIMIT_NICE,
        resource.RLIMIT_SIGPENDING]
set_result([[outcome(lambda kind=kind: raised(kind)) for kind in held],
            "raised" in [outcome(lambda kind=kind: raised(kind)) for kind in kinds]])""",
        )

        held, is_any_raised = tried.result
        assert set(held) == {"ValueError"}
        assert not is_any_raised

    def test_nobody_comes_before_others(self, jail):
        tried = attack(
            jail,
            """
set_result([
    outcome(lambda: os.nice(-5)),
    outcome(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5)),
    outcome(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
    outcome(lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))),
])""",
        )

        assert set(tried.result) == {"PermissionError"}

    def test_a_thread_has_no_files_of_its_own(self, jail):
        """They would be out of sight of whoever counts files."""
        thread, memory, signals = 0x1_0000, 0x100, 0x800
        tried = attack(
            jail,
            """
set_result([
    call(known["clone"], flags, 0, 0, 0, 0), call(known["close_range"], 60, 63, 2),
])""",
            known=numbers("clone", "close_range"),
            flags=thread | memory | signals,
        )

        assert tried.result == [[-1, EPERM], [-1, EPERM]]

    @pytest.mark.skipif(platform.machine() != "x86_64", reason="the doors are those of x86-64")
    @pytest.mark.parametrize("code", ["call(0x40000000 | 39)", BY_INTERRUPT], ids=["x32", "i386"])
    def test_another_architectures_door_is_deadly(self, jail, code):
        tried = attack(jail, code)

        assert tried.done is None
        # Where the kernel has no such door, what leads to it is no instruction.
        assert tried.gone["signal"] in (signal.SIGSYS, signal.SIGSEGV)


class TestProc:
    def test_nothing_of_the_kernel_is_written_there(self, jail):
        tried = attack(
            jail,
            """
paths = ["sys/kernel/core_pattern", "sysrq-trigger", "sys/kernel/ns_last_pid", "self/mem",
         "self/oom_score_adj", "self/uid_map", "self/setgroups", "self/comm", "self/timerslack_ns",
         "self/attr/current", "self/clear_refs", "1/oom_score_adj", "self/task/1/comm"]
set_result([outcome(lambda path=path: os.open(f"/proc/{path}", os.O_WRONLY)) for path in paths])""",
        )

        assert set(tried.result) <= REFUSED

    def test_a_descriptor_is_opened_again_only_as_what_it_is(self, jail):
        """Through /proc/self/fd a pipe's other end or a socket's peer might be had."""
        tried = attack(
            jail,
            """
held = os.open(".", os.O_PATH)
up = os.open("/", os.O_PATH)
set_result([
    outcome(lambda: os.open("/proc/self/fd/3", os.O_RDWR)),
    outcome(lambda: os.listdir(f"/proc/self/fd/{up}")),
    outcome(lambda: os.open(f"/proc/self/fd/{up}/etc/shadow", os.O_RDONLY)),
    outcome(lambda: os.open("etc/shadow", os.O_RDONLY, dir_fd=up)),
    outcome(lambda: os.open("../" * 40 + "etc/shadow", os.O_RDONLY, dir_fd=held)),
    outcome(lambda: os.open("/proc/self/root/etc/shadow", os.O_RDONLY)),
    outcome(lambda: os.open("/proc/1/root/etc/shadow", os.O_RDONLY)),
    outcome(lambda: os.open("/proc/self/cwd/../etc/shadow", os.O_RDONLY)),
])""",
        )

        assert set(tried.result) <= {*REFUSED, "OSError"}

    @pytest.mark.parametrize("kind", NAMESPACED)
    def test_a_script_sees_its_own_processes_only(self, jail):
        tried = attack(
            jail,
            """
set_result([[name for name in os.listdir("/proc") if name.isdigit()],
            [outcome(lambda pid=pid: os.kill(pid, 0)) for pid in range(2, 300)]])""",
        )

        seen, asked = tried.result
        assert seen == ["1"]
        assert set(asked) == {"ProcessLookupError"}


class TestOthers:
    """A sibling, the zygote and the server, by their numbers on this machine."""

    KILL = """
def everything(pid):
    return [
        outcome(lambda: os.kill(pid, 9)), outcome(lambda: os.killpg(pid, 9)),
        call(known["tgkill"], pid, pid, 9), call(known["rt_sigqueueinfo"], pid, 9, 0),
        call(known["pidfd_open"], pid, 0), call(known["ptrace"], 16, pid, 0, 0),
        call(known["process_vm_readv"], pid, 0, 0, 0, 0, 0), call(known["prlimit64"], pid, 0, 0, 0),
        call(known["kcmp"], pid, pid, 0, 0, 0), call(known["move_pages"], pid, 0, 0, 0, 0, 0),
    ]
set_result([everything(pid) for pid in pids])
"""
    KNOWN = numbers(
        *("tgkill", "rt_sigqueueinfo", "pidfd_open", "ptrace", "process_vm_readv", "prlimit64"),
        *("kcmp", "move_pages"),
    )

    def test_none_can_be_signalled_looked_into_or_held(self, jail):
        victim = jail.ready(2)
        others = [os.getpid(), jail.process.pid, *descendants(jail.process.pid)]

        said = jail.ready(1).run(f"{TOOLS}known, pids = {self.KNOWN!r}, {others!r}{self.KILL}")

        assert said["error"] is None
        answers = [answer for one in said["result"] for answer in one]
        assert all(
            answer in ("PermissionError", "ProcessLookupError") or answer[0] == -1
            for answer in answers
        )
        assert victim.run(NEXT)["result"] == "next"
        assert jail.process.poll() is None

    def test_kill_all_ends_nobody_else(self, jail):
        tried = attack(jail, "set_result(outcome(lambda: os.kill(-1, 9)))")

        assert tried.result in ("PermissionError", "ProcessLookupError")

    def test_no_descriptor_signals_them(self, jail):
        tried = attack(
            jail,
            """
import fcntl
ours, theirs = os.pipe()
set_result([
    *(outcome(lambda c=c: fcntl.fcntl(ours, c, pid)) for c in (8, 10, 1024, 1026)),
    outcome(lambda: fcntl.fcntl(ours, 15, bytes(4) + pid.to_bytes(4, "little"))),
])""",
            pid=os.getpid(),
        )

        assert set(tried.result) == {"PermissionError"}

    def test_the_frames_socket_gives_no_handle_to_the_server(self, jail):
        peer_pidfd = 77
        tried = attack(
            jail,
            "end = socket.socket(fileno=3)\nset_result(outcome(lambda: end.getsockopt(1, name)))\n"
            "end.detach()",
            name=peer_pidfd,
        )

        assert tried.result == "PermissionError"

    def test_none_is_told_to_forget_its_zygote(self, jail):
        known = numbers("prctl")
        death, dumpable, seccomp = 1, 4, 22
        tried = attack(
            jail,
            "set_result([call(known['prctl'], option, value, 0, 0, 0) for option, value in asked])",
            known=known,
            asked=[(death, 0), (death, 9), (dumpable, 1), (dumpable, 0), (seccomp, 2)],
        )

        assert tried.result == [[-1, EPERM]] * 5


class TestFrozen:
    """Time in which a script waits for a model is not counted: it may not be used for anything."""

    async def test_one_that_runs_whoever_woke_it_is_ended(self, jail):
        worker = jail.ready()
        worker.start("print('armed', flush=True)\nwhile True: pass")
        assert worker.printed() == "armed\n"
        (pid,) = workers_of(jail)
        jail.tell(t="freeze", id=1)
        assert jail.hear() == {"t": "frozen", "id": 1}

        def is_ended() -> bool:
            if is_alive(pid):
                os.kill(pid, signal.SIGCONT)
            return not is_alive(pid)

        await until(is_ended)

        ended = jail.hear()
        assert (ended["t"], ended["reason"]) == ("gone", "cpu")
        assert workers_of(jail) == set()
        assert jail.ready(2).run(NEXT)["result"] == "next"

    async def test_one_whose_first_thread_has_ended_stands_still_too(self, jail):
        worker = jail.ready(1)
        worker.start(TOOLS + LEAVE_A_THREAD)
        assert worker.printed() == "armed\n"
        (pid,) = workers_of(jail)

        jail.tell(t="freeze", id=1)
        assert jail.hear() == {"t": "frozen", "id": 1}

        await until(lambda: {state(task) for task in other_threads(pid)} == {"T"})

    async def test_a_frozen_one_may_be_thawed_late(self, jail):
        worker = jail.ready()
        worker.start("print('armed', flush=True)\nwhile True: pass")
        assert worker.printed() == "armed\n"
        (pid,) = workers_of(jail)
        jail.tell(t="freeze", id=1)
        jail.hear()
        # Several looks of the watchdog, which another worker's job keeps going.
        jail.ready(2).run("import time; time.sleep(0.2)")
        assert jail.hear()["id"] == 2

        jail.tell(t="thaw", id=1)

        assert jail.hear() == {"t": "thawed", "id": 1}
        before = ticks(pid)
        await until(lambda: ticks(pid) > before)


class TestTraces:
    def test_workers_leave_no_mount_and_no_descriptor_behind(self, jail, kind):
        below = descendants(jail.process.pid)
        (zygote,) = below - workers_of(jail)

        def held() -> tuple[int, int]:
            # Without namespaces they are the host's, where others mount what they like.
            is_own = kind in NAMESPACED
            mounts = Path(f"/proc/{zygote}/mountinfo").read_text().splitlines() if is_own else []
            return len(mounts), len(list(Path(f"/proc/{zygote}/fd").iterdir()))

        before = held()
        for _ in range(3):
            attack(jail, "open('left', 'w').write('x'); os._exit(3)")
            jail.settle()

        assert held() == before
