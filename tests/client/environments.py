"""Environments of other interpreters, with packages from the index."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

VERSIONS = ("3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
# The installer of this machine makes environments from here on.
UV_BEGINS_WITH = (3, 8)
OUT_OF_REACH = ("dns error", "error sending request", "Failed to fetch", "NewConnectionError")


def uv(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # `uv run` says where it is. What the PATH has may be a script that looks for it each time.
    program = os.environ.get("UV") or shutil.which("uv")
    if program is None:
        pytest.fail("This test needs uv on the PATH.")
    return _run(program, *arguments)


def interpreter(version: str) -> Path:
    """Where an interpreter is. A test without it is skipped, and says so."""
    tell = "import sys; print('{}.{}'.format(*sys.version_info[:2]))"
    for place in _places(version):
        told = _run(place, "-c", tell)
        if told.returncode == 0 and told.stdout.strip() == version:
            return place
    pytest.skip(f"There is no Python {version} on this machine.")


def _places(version: str) -> Iterator[Path]:
    """Where an interpreter may be, first where it is quick to look."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from sorted(pyenv.glob(f"{version}.*/bin/python"))
    if on_path := shutil.which(f"python{version}"):
        yield Path(on_path)
    found = uv("python", "find", "--no-python-downloads", version)
    if found.returncode == 0:
        yield Path(found.stdout.strip())


def environment(python: Path, folder: Path, *packages: str | Path) -> Path:
    """Make an environment with these packages; return its interpreter."""
    own = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    major, minor = _run(python, "-c", "import sys; print(*sys.version_info[:2])").stdout.split()
    if (int(major), int(minor)) >= UV_BEGINS_WITH:
        made = uv("venv", "--quiet", "--no-project", "--python", python, folder)
        assert made.returncode == 0, made.stderr
        done = uv("pip", "install", "--quiet", "--python", own, *packages)
    else:
        # Its pip installs; another one in there would take longer to make than all the rest.
        made = _run(python, "-m", "venv", "--without-pip", folder)
        assert made.returncode == 0, made.stderr
        site = _run(own, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout
        into = ("--target", site.strip())
        done = _run(python, "-m", "pip", "install", "--quiet", *into, *packages)
    if done.returncode != 0 and any(words in done.stderr for words in OUT_OF_REACH):
        pytest.skip(f"The package index is out of reach: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    return own


def visit(python: Path, script: Path, base_url: str, key: str) -> str:
    """Run a script there, and return what it says."""
    # Nothing of this checkout and of this environment is seen there.
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    ended = subprocess.run(
        [python, "-I", script, base_url],
        env={**variables, "AI_SPINE_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def _run(program: str | Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


THIS = Path(sys.executable)
