"""What a page says about the machine and the versions it was measured with."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("insula", "litestar", "granian", "uvloop", "aiohttp", "msgspec", "sqlalchemy")


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line for line in lines if line.startswith("model name")), ": unknown")
    return {
        "processor": model.partition(":")[2].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def own_versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES}
