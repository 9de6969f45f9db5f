"""What must be there before anything is measured: two C programs and the peers' environments."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.processes import BenchError, bare_environment

HERE: Final = Path(__file__).resolve().parent
BUILD: Final = HERE / ".build"


def build_folder() -> Path:
    """The folder for everything that is made here; git does not see it."""
    BUILD.mkdir(exist_ok=True)
    (BUILD / ".gitignore").write_text("*\n")
    return BUILD


def program(name: str) -> Path:
    """Compile one of the C programs, unless it is newer than all sources."""
    source, target = HERE / f"{name}.c", build_folder() / name
    newest = max(path.stat().st_mtime for path in (source, *HERE.glob("*.h")))
    if not target.exists() or target.stat().st_mtime < newest:
        if shutil.which("cc") is None:
            raise BenchError("A C compiler is needed, as `cc` on the PATH.")
        run("cc", "-O2", "-o", str(target), str(source))
    return target


def litellm_environment(given: str | None) -> str:
    """The Python of an environment with LiteLLM: the given one, or one that is made once."""
    folder = Path(given).absolute() if given else build_folder() / "litellm"
    python = folder / "bin" / "python"
    if given and not python.exists():
        raise BenchError(f"--litellm-venv: there is no {python}")
    if not (folder / "bin" / "litellm").exists():
        uv = shutil.which("uv")
        if uv is None:
            raise BenchError("uv is needed to install LiteLLM; --no-litellm leaves it out.")
        run(uv, "venv", "--clear", "--python", sys.executable, str(folder))
        run(uv, "pip", "install", "--python", str(python), "litellm[proxy]")
        compile_bytecode(str(python), folder / "lib")
    return str(python)


def smg_environment(given: str) -> str:
    """The Python of an environment that has `smg`: what `pip install sglang-router` makes."""
    python = Path(given).absolute() / "bin" / "python"
    if not python.with_name("smg").exists():
        raise BenchError(f"--smg-venv: there is no {python.with_name('smg')}")
    return str(python)


def compile_bytecode(python: str, *folders: Path) -> None:
    """Without cached bytecode every start compiles, and LiteLLM some of its requests too."""
    command = (python, "-m", "compileall", "-q", "-j", "0", *map(str, folders))
    subprocess.run(command, env=bare_environment(), stdout=subprocess.DEVNULL, check=False)


def run(*command: str) -> None:
    print("$", " ".join(Path(part).name if "/" in part else part for part in command), flush=True)
    if subprocess.run(command, check=False).returncode:
        raise BenchError(f"{Path(command[0]).name} failed, see above.")
