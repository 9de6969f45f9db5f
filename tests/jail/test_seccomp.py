"""The filter's programs, run by a small interpreter of the kernel's filter machine."""

import errno
import re
import struct
from pathlib import Path

import pytest

from insula_jail import machine, seccomp

ARCHITECTURES = ("x86_64", "aarch64")
I386, X32_BIT = 0x4000_0003, 0x4000_0000
OWN_PID = 4242
HEADERS = {
    "x86_64": (
        "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        "/usr/include/asm/unistd_64.h",
    ),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
EPERM = seccomp.ERRNO | errno.EPERM
ENOSYS = seccomp.ERRNO | errno.ENOSYS
EVERYDAY = {
    "x86_64": {"read": 0, "write": 1, "mmap": 9, "futex": 202, "openat": 257, "exit_group": 231},
    "aarch64": {"read": 63, "write": 64, "mmap": 222, "futex": 98, "openat": 56, "exit_group": 94},
}
CLONE_THREAD, CLONE_FILES, SIGCHLD = 0x1_0000, 0x400, 17


def run(program: bytes, number: int, arguments: tuple[int, ...] = (), *, audit: int) -> int:
    """What the kernel would answer: the verdict of ``program`` on one call."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=iIQ6Q", number - (number & 1 << 31) * 2, audit, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = at = 0
    while True:
        kind, if_true, if_false, value = code[at]
        at += 1
        if kind == 0x06:
            return value
        if kind == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif kind == 0x54:
            accumulator &= value
        elif kind == 0x05:
            at += value
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[kind]
            at += if_true if holds else if_false


class Filter:
    """A worker's filter on one architecture."""

    def __init__(self, name: str, tier: str) -> None:
        self.on = machine.machine(name)
        self._program = seccomp.worker_program(self.on, tier).for_pid(OWN_PID)

    def answer(self, call: str, *arguments: int) -> int:
        return self.numbered(self.on.number(call), *arguments)

    def numbered(self, number: int, *arguments: int, audit: int | None = None) -> int:
        audit = self.on.audit_architecture if audit is None else audit
        return run(self._program, number, arguments, audit=audit)


@pytest.fixture(params=[(name, tier) for name in ARCHITECTURES for tier in "AB"], ids=str)
def every(request):
    return Filter(*request.param)


@pytest.fixture(params=ARCHITECTURES)
def tier_a(request):
    return Filter(request.param, "A")


@pytest.fixture(params=ARCHITECTURES)
def tier_b(request):
    return Filter(request.param, "B")


class TestTables:
    def test_both_name_the_same_calls(self):
        x86, arm = (machine.machine(name).numbers for name in ARCHITECTURES)

        assert x86.keys() == arm.keys()

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_no_number_is_given_twice(self, name):
        numbers = [n for n in machine.machine(name).numbers.values() if n is not None]

        assert len(set(numbers)) == len(numbers)

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_the_numbers_are_those_of_the_kernel_headers(self, name):
        header = next((Path(path) for path in HEADERS[name] if Path(path).exists()), None)
        if header is None:
            pytest.skip(f"no kernel headers for {name} are installed")
        found = re.findall(r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
        true = {call: int(number) for call, number in found}

        ours = machine.machine(name).numbers
        wrong = {call: ours[call] for call in ours if call in true and ours[call] != true[call]}
        invented = {
            call
            for call, number in ours.items()
            if number is not None and call not in true and number <= max(true.values())
        }

        assert wrong == {}
        assert invented == set()

    def test_an_unknown_machine_is_named(self):
        with pytest.raises(machine.UnknownArchitecture, match="riscv64"):
            machine.machine("riscv64")

    def test_a_call_that_a_machine_has_not_is_no_number(self):
        with pytest.raises(KeyError, match="fork"):
            machine.machine("aarch64").number("fork")


class TestWorkerProgram:
    @pytest.mark.parametrize(
        "call",
        [
            *(
                "socket",
                "connect",
                "bind",
                "ptrace",
                "bpf",
                "keyctl",
                "add_key",
                "unshare",
                "setns",
            ),
            *("mount", "umount2", "pivot_root", "chroot", "io_uring_setup", "userfaultfd"),
            *("perf_event_open", "memfd_create", "open_by_handle_at", "process_vm_readv"),
            *("personality", "shmget", "msgget", "semget", "mq_open", "setresuid", "capset"),
            *("seccomp", "landlock_create_ruleset", "pidfd_getfd", "kexec_load", "init_module"),
            *("inotify_init1", "io_setup", "sync", "sendmsg", "sendmmsg", "setsockopt"),
        ],
    )
    def test_denies_in_every_tier(self, every, call):
        assert every.answer(call) == EPERM

    @pytest.mark.parametrize("call", ["read", "write", "mmap", "futex", "openat", "exit_group"])
    def test_allows_what_every_program_needs(self, every, call):
        assert every.numbered(EVERYDAY[every.on.name][call]) == seccomp.ALLOW

    def test_kills_who_enters_by_another_architecture(self, every):
        assert every.numbered(1, audit=I386) == seccomp.KILL_PROCESS

    def test_kills_who_enters_as_x32(self, every):
        assert every.numbered(X32_BIT | 1) == seccomp.KILL_PROCESS
        assert every.numbered(X32_BIT | 520) == seccomp.KILL_PROCESS

    def test_calls_of_later_kernels_do_not_exist(self, every):
        assert every.numbered(machine.LAST_KNOWN_CALL + 1) == ENOSYS

    def test_new_threads_come_from_the_older_clone(self, every):
        assert every.answer("clone3") == ENOSYS
        assert every.answer("clone", 0x3D0F00) == seccomp.ALLOW

    @pytest.mark.parametrize("bit", [17, 25, 26, 27, 28, 29, 30])
    def test_no_clone_has_a_new_namespace(self, every, bit):
        assert every.answer("clone", SIGCHLD | 1 << bit) == EPERM
        assert every.answer("clone", CLONE_THREAD | 1 << bit) == EPERM

    def test_no_thread_has_files_of_its_own(self, every):
        assert every.answer("clone", CLONE_THREAD) == EPERM
        assert every.answer("clone", CLONE_THREAD | CLONE_FILES) == seccomp.ALLOW
        assert every.answer("close_range", 3, 9, 2) == EPERM
        assert every.answer("close_range", 3, 9, 4) == seccomp.ALLOW

    def test_no_memory_is_mapped_that_nobody_counts(self, every):
        shared, private, anonymous, reserved = 1, 2, 0x20, 0x4_0000
        validated = 3

        assert every.answer("mmap", 0, 1, 3, shared | anonymous) == EPERM
        assert every.answer("mmap", 0, 1, 3, validated | anonymous) == EPERM
        assert every.answer("mmap", 0, 1, 3, private | anonymous | reserved) == EPERM
        assert every.answer("mmap", 0, 1, 3, private | anonymous) == seccomp.ALLOW
        assert every.answer("mmap", 0, 1, 3, shared) == seccomp.ALLOW

    def test_the_peer_of_a_socket_is_no_handle(self, every):
        assert every.answer("getsockopt", 3, 1, 77) == EPERM
        assert every.answer("getsockopt", 3, 1, 3) == seccomp.ALLOW

    def test_nothing_is_typed_into_a_terminal(self, every):
        assert every.answer("ioctl", 0, 0x5412) == EPERM
        assert every.answer("ioctl", 0, 0x5412 | 7 << 32) == EPERM
        assert every.answer("ioctl", 0, 0x541C) == EPERM
        assert every.answer("ioctl", 0, 0x5401) == seccomp.ALLOW

    def test_a_pair_of_sockets_is_a_stream_inside(self, every):
        assert every.answer("socketpair", 1, 1 | 0o2000000) == seccomp.ALLOW
        assert every.answer("socketpair", 1, 5) == seccomp.ALLOW
        assert every.answer("socketpair", 1, 2) == EPERM
        assert every.answer("socketpair", 2, 1) == EPERM

    def test_limits_of_others_stay(self, every):
        assert every.answer("prlimit64", 0, 7) == seccomp.ALLOW
        assert every.answer("prlimit64", 1, 7) == EPERM

    def test_the_parent_death_signal_stays(self, every):
        assert every.answer("prctl", machine.PR_SET_PDEATHSIG) == EPERM
        assert every.answer("prctl", machine.PR_SET_DUMPABLE, 1) == EPERM
        assert every.answer("prctl", machine.PR_GET_SECCOMP) == seccomp.ALLOW

    def test_tier_a_has_processes_of_its_own(self, tier_a):
        assert tier_a.answer("clone", SIGCHLD) == seccomp.ALLOW
        assert tier_a.answer("execve") == seccomp.ALLOW
        assert tier_a.answer("kill", 7) == seccomp.ALLOW

    def test_tier_b_has_threads_only(self, tier_b):
        assert tier_b.answer("clone", SIGCHLD) == EPERM
        assert tier_b.answer("execve") == EPERM
        assert tier_b.answer("execveat") == EPERM

    @pytest.mark.parametrize("call", ["kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"])
    def test_tier_b_signals_itself_only(self, tier_b, call):
        assert tier_b.answer(call, OWN_PID) == seccomp.ALLOW
        assert tier_b.answer(call, OWN_PID + 1) == EPERM
        assert tier_b.answer(call, 0) == EPERM
        assert tier_b.answer(call, (1 << 64) - 1) == EPERM

    @pytest.mark.parametrize("command", [8, 10, 15, 1024, 1026])
    def test_no_descriptor_signals_others_or_makes_them_wait(self, every, command):
        assert every.answer("fcntl", 3, command) == EPERM
        assert every.answer("fcntl", 3, 1) == seccomp.ALLOW

    def test_tier_b_asks_of_a_descriptor_what_files_need_and_no_more(self, tier_b):
        owner, flags, verity, subvolume = 0x8901, 0x4008_6602, 0x4080_6685, 0x5000_940E

        assert {
            tier_b.answer("ioctl", 3, request) for request in (owner, flags, verity, subvolume)
        } == {EPERM}
        assert {
            tier_b.answer("ioctl", 3, request) for request in (0x5401, 0x5421, 0x541B, 0x4004_9409)
        } == {seccomp.ALLOW}

    def test_tier_b_changes_no_file_by_its_name(self, tier_b):
        assert tier_b.answer("fchmodat") == seccomp.PRETEND
        assert tier_b.answer("fchmod") == seccomp.PRETEND
        assert tier_b.answer("utimensat") == seccomp.PRETEND
        assert tier_b.answer("fchownat") == EPERM
        assert tier_b.answer("setxattr") == EPERM
        assert tier_b.answer("truncate") == EPERM

    def test_tier_b_empties_nothing_by_reading_it(self, tier_b):
        assert tier_b.answer("openat", 0, 0, 0o1000) == EPERM
        assert tier_b.answer("openat", 0, 0, 0o1000 | 0o2000000) == EPERM
        assert tier_b.answer("openat", 0, 0, 0o1003) == EPERM
        assert tier_b.answer("openat", 0, 0, 0o1001) == seccomp.ALLOW
        assert tier_b.answer("openat", 0, 0, 0) == seccomp.ALLOW

    def test_x86_has_older_doors_that_are_closed_too(self):
        x86 = Filter("x86_64", "B")

        assert x86.answer("fork") == EPERM
        assert x86.answer("vfork") == EPERM
        assert x86.answer("open", 0, 0o1000) == EPERM
        assert x86.answer("chmod") == seccomp.PRETEND
        assert x86.answer("modify_ldt") == EPERM


class TestZygoteProgram:
    @pytest.mark.parametrize("name", ARCHITECTURES)
    @pytest.mark.parametrize("tier", ["A", "B"])
    def test_leaves_what_a_workers_walls_need_and_no_more(self, name, tier):
        on = machine.machine(name)
        program = seccomp.zygote_program(on, tier).code

        def answer(call: str) -> int:
            return run(program, on.number(call), audit=on.audit_architecture)

        assert answer("landlock_create_ruleset") == seccomp.ALLOW
        assert answer("seccomp") == seccomp.ALLOW
        assert answer("mount") == (seccomp.ALLOW if tier == "A" else EPERM)
        assert answer("unshare") == (seccomp.ALLOW if tier == "A" else EPERM)
        assert answer("socket") == EPERM
        assert answer("bpf") == EPERM
        assert answer("pivot_root") == EPERM
