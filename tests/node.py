"""Packages from npm for tests, installed once a machine, outside the repository."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def installed(*packages: str) -> Path:
    """Return a folder whose ``node_modules`` holds ``packages``, each as ``name@version``."""
    name = "-".join(part.replace("/", "-") for part in packages)
    folder = Path(tempfile.gettempdir()) / f"insula-tests-{os.getuid()}" / name
    if folder.exists():
        return folder
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.fail("This test needs node and npm on the PATH.")
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
        command = [npm, "install", "--prefix", fresh, "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(
            [*command, "--legacy-peer-deps", *packages], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.fail(f"npm could not install {' '.join(packages)}: {done.stderr[-800:]}")
        shutil.copytree(fresh, f"{fresh}-done")
    Path(f"{fresh}-done").replace(folder)
    return folder
