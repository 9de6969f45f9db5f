"""`python -m benchmarks`: measure, and write docs/benchmarks/gateway.json and gateway.md."""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from benchmarks import build, figures, hangups, measure, page, starts
from benchmarks.processes import BenchError
from benchmarks.targets import ROOT, Places, Street

DOCS: Final = ROOT / "docs" / "benchmarks"
PACKAGES: Final = ("insula", "litestar", "granian", "uvloop", "aiohttp", "msgspec", "sqlalchemy")


def main() -> int:
    options = read_options()
    effort = measure.QUICK if options.quick else measure.FULL
    folder = build.build_folder() if options.quick else DOCS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if not options.page_only:
            results = run(options, effort)
            write(folder, results)
        text = page.render(read(folder))
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    (folder / "gateway.md").write_text(text)
    print(text)
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="short, without LiteLLM; results stay in .build"
    )
    parser.add_argument("--page-only", action="store_true", help="write the page from the json")
    parser.add_argument("--no-litellm", action="store_true", help="leave LiteLLM out")
    parser.add_argument("--litellm-venv", metavar="PATH", help="an environment that has LiteLLM")
    parser.add_argument(
        "--lean-python", metavar="PATH", help="Python of an environment without dev packages"
    )
    return parser.parse_args()


def run(options: argparse.Namespace, effort: measure.Effort) -> dict[str, Any]:
    with_litellm = effort.is_full and not options.no_litellm
    with tempfile.TemporaryDirectory(prefix="insula-bench-") as scratch:
        places = Places(
            upstream=build.program("upstream"),
            load=build.program("load"),
            python=sys.executable,
            lean_python=options.lean_python,
            litellm_python=(
                build.litellm_environment(options.litellm_venv) if with_litellm else None
            ),
            scratch=Path(scratch),
        )
        street = Street(places)
        with street.open():
            timed = starts.time_starts(street, effort.starts)
            left = hangups.cut(street)
            samples, memory = measure.measure(street, effort)
    keep(samples + timed)
    return {
        "measured_at": datetime.now(UTC).date().isoformat(),
        "mode": "quick" if options.quick else "full",
        "effort": asdict(effort),
        "machine": machine(),
        "versions": versions(places),
        "cells": figures.summarise_load(samples),
        "starts": figures.summarise_starts(timed),
        "memory_after_mib": memory,
        "hang_ups": left,
        "ratios": figures.ratios(samples, timed),
        "noise": figures.summarise_noise(samples),
    }


def keep(rows: list[dict[str, Any]]) -> None:
    """Leave every single sample where a doubtful figure can be looked up."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (build.build_folder() / "samples.jsonl").write_text(lines)


def write(folder: Path, results: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gateway.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def read(folder: Path) -> dict[str, Any]:
    found = folder / "gateway.json"
    if not found.exists():
        raise BenchError("Nothing has been measured yet: leave --page-only out.")
    return json.loads(found.read_text())


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line for line in lines if line.startswith("model name")), ": unknown")
    return {
        "processor": model.partition(":")[2].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def versions(places: Places) -> dict[str, str]:
    found = {name: metadata.version(name) for name in PACKAGES}
    if places.litellm_python:
        line = "from importlib.metadata import version; print(version('litellm'))"
        command = (places.litellm_python, "-c", line)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found["litellm"] = done.stdout.strip()
    return found


if __name__ == "__main__":
    sys.exit(main())
