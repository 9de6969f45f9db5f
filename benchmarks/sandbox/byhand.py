"""What is compared with: the same interpreter, or a container, started by hand for each script."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.processes import BenchError, bare_environment

BASE_PYTHON: Final = str(getattr(sys, "_base_executable", sys.executable))
ENGINE_LIMIT_S: Final = 5.0
# A shell starts processes as fast as anything does by hand.
LOOP: Final = 'n=0; while [ "$n" -lt "$1" ]; do "$0" -I -c pass; n=$((n + 1)); done'


class Interpreter:
    """The interpreter that scripts run in, with nothing installed beside it.

    An empty virtual environment hides the packages of the machine's own Python: a ``.pth`` file
    among them would run at each start, and make what is compared with slower than it need be.
    """

    def __init__(self, scratch: Path) -> None:
        folder = scratch / "bare"
        self._pycache = scratch / "pycache"
        self._environment = bare_environment()
        subprocess.run(
            (BASE_PYTHON, "-I", "-m", "venv", "--without-pip", str(folder)),
            env=self._environment,
            check=True,
        )
        self.program = str(folder / "bin" / "python")

    def run(self, code: str) -> float:
        """Start it for this code; the seconds until it has ended."""
        return started([self.program, "-I", "-c", code], self._environment)

    def run_with(self, packages: Path, code: str) -> float:
        """The same with a folder of packages. It has bytecode of its own, and leaves none there."""
        prepared = f"import sys; sys.path.append({str(packages)!r})\n{code}"
        flags = ("-I", "-X", f"pycache_prefix={self._pycache}")
        return started([self.program, *flags, "-c", prepared], self._environment)

    def loops(self, side_by_side: int, times: int) -> float:
        """Starts a second of so many loops, each of which starts it so many times for nothing."""
        shell = shutil.which("sh") or "/bin/sh"
        command = (shell, "-c", LOOP, self.program, str(times))
        began = time.perf_counter()
        running = [
            subprocess.Popen(command, env=self._environment, stdin=subprocess.DEVNULL)
            for _ in range(side_by_side)
        ]
        codes = [process.wait() for process in running]
        took = time.perf_counter() - began
        if any(codes):
            raise BenchError(f"{self.program} does not start by hand.")
        return side_by_side * times / took


class Engine:
    """A Docker engine by its command line, which takes `DOCKER_HOST` from the environment."""

    def __init__(self) -> None:
        self.variables = {k: v for k, v in os.environ.items() if k.startswith("DOCKER_")}
        self.image = os.environ.get("SANDBOX_DOCKER_IMAGE", "")
        self._program = shutil.which("docker") or ""

    def missing(self) -> str:
        """Why nothing can be measured with it; empty if all is there."""
        if not self._program:
            return "there is no `docker` command"
        if not self.image:
            return "SANDBOX_DOCKER_IMAGE names no image"
        try:
            done = subprocess.run(
                (self._program, "image", "inspect", self.image),
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=ENGINE_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "the engine does not answer"
        return done.stderr.strip().splitlines()[-1] if done.returncode else ""

    def run(self, code: str) -> float:
        options = ("run", "--rm", "--network", "none", self.image, "python3", "-I", "-c", code)
        return started([self._program, *options], self._environment)

    @property
    def _environment(self) -> dict[str, str]:
        return {**bare_environment(), **self.variables}


def started(command: list[str], environment: Mapping[str, str]) -> float:
    """Start a process as cheaply as Python can; the seconds until it has ended."""
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    began = time.perf_counter()
    pid = os.posix_spawn(command[0], command, environment, file_actions=silent)
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter() - began
    if status:
        raise BenchError(f"{' '.join(command)[:500]} ended with status {status}.")
    return took
