"""A worker: an interpreter behind walls that runs one script, says how it ended, and is gone."""

from __future__ import annotations

import _sitebuiltins
import ast
import atexit
import builtins
import linecache
import os
import sys
import threading
import tokenize
from binascii import a2b_base64
from collections.abc import Callable
from io import BytesIO
from resource import (
    RLIM_INFINITY,
    RLIMIT_AS,
    RLIMIT_CPU,
    RLIMIT_FSIZE,
    RLIMIT_NOFILE,
    RLIMIT_NPROC,
    getrlimit,
    setrlimit,
)
from signal import SIG_BLOCK
from traceback import TracebackException
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from insula_jail import frames
from insula_jail.link import ALL_SIGNALS, LOST, Link, mask_signals
from insula_jail.script import (
    KB,
    Artifacts,
    Limits,
    Llm,
    LLMError,
    Memory,
    Result,
    Settings,
    flush,
    forget_unflushed,
    is_file_name,
)

# A script shares its interpreter with this file and may replace everything it finds in a module:
# what is needed after it is taken hold of here, before any script is there.
globals()["__builtins__"] = dict(vars(builtins))
_exit = os._exit
_write = os.write
_settrace, _setprofile, _setrecursionlimit = sys.settrace, sys.setprofile, sys.setrecursionlimit
_modules, _builtins = sys.modules, vars(builtins)
# An interpreter does the same when it ends, in this order.
_join_threads: Callable[[], None] = threading._shutdown  # type: ignore[attr-defined]
_run_exit_handlers = atexit._run_exitfuncs
# Python loads these when it shows a traceback: then they may be out of reach.
PRELOADED = (ast, tokenize)

SCRIPT = "script.py"
OWN_FILES = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - no pathlib in an idle worker
ERROR_LIMIT_BYTES = 64 * KB
# Of an endless recursion as much as an ordinary interpreter shows.
FRAMES_LIMIT = 1000
RECURSION_LIMIT = 1000
THREAD_STACK_BYTES = 1024 * KB
INTERRUPTED = 130
# The limits of a job that are a process's own, and the unit of each.
LOWERED = (
    ("cpu_s", RLIMIT_CPU, 1),
    ("processes", RLIMIT_NPROC, 1),
    ("files", RLIMIT_NOFILE, 1),
    ("file_mb", RLIMIT_FSIZE, KB * KB),
)


class Ending(NamedTuple):
    """How a script ended: as a process of its own would have, with what explains it."""

    exit_code: int
    error: str | None = None


def serve(sock_fd: int, walls: dict[str, bool]) -> NoReturn:
    """Run one script, said by frames over ``sock_fd``, in the current folder; end the process.

    ``walls`` is what ``ready`` reports. What fails here is told on the error output.
    """
    try:
        _serve(Link(sock_fd), walls)
    except BaseException as error:  # noqa: BLE001 - a copy of a zygote never goes on as one
        _warn(_told(error, is_ours=True))
    _exit(LOST)


def _serve(link: Link, walls: dict[str, bool]) -> NoReturn:
    os.register_at_fork(after_in_child=link.cut)
    # What a zygote's imports have printed may still wait in its streams, which are lost if nothing
    # holds them, and would then write it out as if the script had printed it.
    _inherited = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    forget_unflushed()
    _furnish()
    link.send([frames.encode({"t": "ready", "walls": walls})])
    inbox = Inbox()
    while True:
        frame = link.receive()
        if frame["t"] == "file":
            inbox.take(frame)
        elif frame["t"] == "job":
            Execution(link, frame, inbox.problem()).run()


class Inbox:
    """Files for the script, which come in pieces. The first problem is kept for the job's end."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._problem: str | None = None

    def take(self, frame: dict[str, Any]) -> None:
        if self._problem is not None:
            return
        try:
            self._write(frame["name"], a2b_base64(frame["data"]))
            if not frame.get("more"):
                self._close()
        except (OSError, ValueError) as error:
            self._problem = f"A file of the execution could not be written: {error}"

    def problem(self) -> str | None:
        if self._fd is not None and self._problem is None:
            return "A file of the execution came only in part."
        return self._problem

    def _write(self, name: str, data: bytes) -> None:
        if self._fd is None:
            if not is_file_name(name):
                raise ValueError("its name is empty, too long, or a path.")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(name, flags, 0o600)
        frames.write(self._fd, data)

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


class Execution:
    """One script, from its source to the frame that says how it ended."""

    def __init__(self, link: Link, job: dict[str, Any], problem: str | None) -> None:
        limits = Limits.of(job.get("limits") or {})
        _lower(job.get("limits") or {})
        self._link = link
        self._problem = problem
        self._code: str = job["code"]
        self._memory = Memory(job.get("memory") or {}, limits)
        self._result = Result(limits)
        self._artifacts = Artifacts(link, limits)
        self._names = {
            "settings": Settings(job.get("settings") or {}),
            "memory": self._memory,
            "llm": Llm(link, limits),
            "set_result": self._result.set_result,
            "save_artifact": self._artifacts.save_artifact,
            "LLMError": LLMError,
        }

    def run(self) -> NoReturn:
        """Run the script to the end of its threads and exit handlers, say how it ended, and end."""
        ending = Ending(1, self._problem) if self._problem else self._run_script()
        for step in (_join_threads, self._save_figures, _run_exit_handlers, flush):
            # Not ``suppress``, which is Python code: it fails when builtins have been replaced.
            try:  # noqa: SIM105 - as said above
                step()
            except BaseException:  # noqa: BLE001, S110 - what a script leaves behind is no news
                pass
        # From here on no handler of the script gets in between.
        mask_signals(SIG_BLOCK, ALL_SIGNALS)
        if self._link.is_cut:
            _leave_copy(ending)
        self._link.send([self._done(ending)])
        _exit(ending.exit_code)

    def _run_script(self) -> Ending:
        airlock = ModuleType("airlock")
        vars(airlock).update(self._names, __all__=list(self._names))
        _modules["airlock"] = airlock
        main = ModuleType("__main__")
        vars(main).update(self._names, __file__=SCRIPT, __builtins__=builtins)
        _modules["__main__"] = main
        source = self._code[1:] if self._code.startswith("\ufeff") else self._code
        lines = [line + "\n" for line in _lines(source)]
        linecache.cache[SCRIPT] = (len(source), None, lines, SCRIPT)
        try:
            code = compile(source, SCRIPT, "exec", dont_inherit=True)
        except BaseException as error:  # noqa: BLE001 - whatever is wrong with a script is its end
            return Ending(1, _told(error, is_compiled=False))
        raised: BaseException | None = None
        try:
            exec(code, vars(main))  # noqa: S102 - this is what a worker is for
        except BaseException as error:  # noqa: BLE001 - whatever a script raises is its end
            raised = error
        # What the script has done to the interpreter would disturb its ending. No function of
        # Python's own is called before this is undone: a tracer would come with it.
        _settrace(None)
        _setprofile(None)
        _setrecursionlimit(RECURSION_LIMIT)
        return _ending(raised)

    def _save_figures(self) -> None:
        pyplot = _modules.get("matplotlib.pyplot")
        if pyplot is None or self._link.is_cut:
            return
        for count, number in enumerate(pyplot.get_fignums(), start=1):
            name = f"figure-{count}.png"
            if name in self._artifacts.names:
                continue
            image = BytesIO()
            try:
                pyplot.figure(number).savefig(image, format="png")
                self._artifacts.save_artifact(name, image.getvalue())
            except Exception as error:  # noqa: BLE001 - one bad figure is not the script's failure
                _warn(f"{name} was not saved: {_summary(error)}")

    def _done(self, ending: Ending) -> bytes:
        result = self._result.text
        said = frames.dumps(
            {
                "t": "done",
                "ok": ending.exit_code == 0,
                "exit_code": ending.exit_code,
                "error": ending.error,
                "has_result": result is not None,
            }
        )
        # Both are JSON already, as they were when the script handed them over.
        values = f',"result":{result or "null"},"memory":{self._memory.dump()}}}'
        return frames.pack((said[:-1] + values).encode())


def _lower(wanted: dict[str, Any]) -> None:
    """Hold this process to less than its template does, where the script's caller may less.

    The address space is told as a difference: how large it is already differs from host to host.
    """
    for name, kind, unit in LOWERED:
        soft, hard = getrlimit(kind)
        limit = int(wanted.get(name, -1)) * unit
        if limit >= 0 and (soft == RLIM_INFINITY or limit < soft):
            setrlimit(kind, (limit, limit if hard == RLIM_INFINITY else min(hard, limit + 1)))
    less = int(wanted.get("memory_less_mb", 0)) * KB * KB
    soft, hard = getrlimit(RLIMIT_AS)
    if less > 0 and soft != RLIM_INFINITY:
        setrlimit(RLIMIT_AS, (soft - less, soft - less))


def _furnish() -> None:
    """Make the interpreter one that has just been started to run a script."""
    threading.stack_size(THREAD_STACK_BYTES)
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        errors = "surrogateescape" if mode == "r" else "backslashreplace"
        newline = None if mode == "r" else "\n"
        stream = open(  # noqa: SIM115 - it lives as long as the process
            fd, mode, encoding="utf-8", errors=errors, newline=newline, closefd=False
        )
        if mode == "w":
            stream.reconfigure(line_buffering=True)  # type: ignore[attr-defined]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = [SCRIPT]
    own_folder = os.path.dirname(OWN_FILES.rstrip(os.sep))  # noqa: PTH120 - as above
    sys.path[:] = [os.getcwd()] + [path for path in sys.path if path != own_folder]  # noqa: PTH109
    _builtins["exit"] = _sitebuiltins.Quitter("exit", "Ctrl-D")
    _builtins["quit"] = _sitebuiltins.Quitter("quit", "Ctrl-D")
    for name in [name for name in _modules if name.split(".")[0] == "insula_jail"]:
        del _modules[name]
    numpy_random = _modules.get("numpy.random")
    if numpy_random is not None:
        # Copies of one interpreter would draw the same numbers; Python's own does this by itself.
        numpy_random.seed()


def _lines(source: str) -> list[str]:
    """The lines as the compiler counts them."""
    return source.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _ending(error: BaseException | None) -> Ending:
    if error is None:
        return Ending(0)
    if not isinstance(error, SystemExit):
        # Showing a traceback is Python's own work, which the script may have taken the ground from.
        _builtins.update(globals()["__builtins__"])
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
        return Ending(code, _told(error))
    status = error.code
    if status is None:
        return Ending(0)
    if isinstance(status, int):
        # A process's exit code has eight bits.
        code = status & 0xFF
        return Ending(code, f"SystemExit: {status}" if code else None)
    text = _summary(error)
    _warn(text.partition(": ")[2])
    return Ending(1, text)


def _told(error: BaseException, *, is_compiled: bool = True, is_ours: bool = False) -> str:
    """A traceback as Python prints it, without frames of our own unless it is ours."""
    try:
        told = TracebackException(type(error), error, error.__traceback__, limit=-FRAMES_LIMIT)
        if not is_ours:
            _strip(told)
        lines = told.format() if is_compiled else told.format_exception_only()
        return _clipped("".join(lines).rstrip("\n"))
    except BaseException:  # noqa: BLE001 - an exception may defend itself against being shown
        return _clipped(_summary(error))


def _strip(told: TracebackException) -> None:
    todo: list[TracebackException | None] = [told]
    while todo:
        one = todo.pop()
        if one is None:
            continue
        one.stack[:] = [frame for frame in one.stack if not frame.filename.startswith(OWN_FILES)]
        todo += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]


def _summary(error: BaseException) -> str:
    name = type.__getattribute__(type(error), "__name__")
    try:
        return _clipped(f"{name}: {error}")
    except BaseException:  # noqa: BLE001 - an exception may defend itself against being shown
        return f"{name}: <exception str() failed>"


def _clipped(text: str) -> str:
    """At most ERROR_LIMIT_BYTES as UTF-8: the head, the tail, and how much is left out."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= ERROR_LIMIT_BYTES:
        return raw.decode()
    half = (ERROR_LIMIT_BYTES - KB) // 2
    head, tail = raw[:half].decode("utf-8", "ignore"), raw[-half:].decode("utf-8", "ignore")
    return f"{head}\n[... {len(raw) - 2 * half} bytes left out ...]\n{tail}"


def _warn(text: str) -> None:
    """Say it on the error output, whatever the script has made of ``sys.stderr``."""
    flush()
    try:  # noqa: SIM105 - a script cannot replace it
        frames.write(2, f"{text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def _leave_copy(ending: Ending) -> NoReturn:
    """End a copy that the script has made of its process, as an interpreter would end."""
    if ending.error is not None:
        _warn(ending.error)
    _exit(ending.exit_code)
