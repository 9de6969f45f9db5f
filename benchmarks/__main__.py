"""`python -m benchmarks`: measure, and write docs/benchmarks/gateway.json and gateway.md.

`python -m benchmarks.truth` does the same for truth.json, which the page shows too;
`python -m benchmarks sandbox` measures what scripts cost, instead, `storage` what the store costs,
and `flows` what graphs of agents cost.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import build, figures, hangups, measure, memory, page, starts
from benchmarks.flows.__main__ import main as measure_flows
from benchmarks.machine import machine, own_versions
from benchmarks.processes import BenchError
from benchmarks.sandbox.__main__ import main as measure_sandbox
from benchmarks.storage.__main__ import main as measure_storage
from benchmarks.targets import Places, Street

OTHERS = {"flows": measure_flows, "sandbox": measure_sandbox, "storage": measure_storage}


def main() -> int:
    if other := OTHERS.get("".join(sys.argv[1:2])):
        return other(sys.argv[2:])
    options = read_options()
    effort = measure.QUICK if options.quick else measure.FULL
    if options.soak:
        effort = replace(effort, soak=measure.LONG_SOAK)
    folder = build.build_folder() if options.quick else page.DOCS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if not options.page_only:
            page.write(page.RESULTS, run(options, effort), folder)
        page.publish(folder)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    print((folder / page.PAGE).read_text())
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="short, without LiteLLM; results stay in .build"
    )
    parser.add_argument(
        "--soak", action="store_true", help="watch the memory up to the 500 000th request"
    )
    parser.add_argument("--page-only", action="store_true", help="write the page from the json")
    parser.add_argument("--no-litellm", action="store_true", help="leave LiteLLM out")
    parser.add_argument("--litellm-venv", metavar="PATH", help="an environment that has LiteLLM")
    parser.add_argument("--smg-venv", metavar="PATH", help="an environment that has smg")
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
            smg_python=build.smg_environment(options.smg_venv) if options.smg_venv else None,
            scratch=Path(scratch),
        )
        street = Street(places)
        with street.open():
            timed = starts.time_starts(street, effort.starts)
            left = hangups.cut(street)
            samples, memory_after = measure.measure(street, effort)
            growth = memory.grow(street, effort)
    keep(samples + timed)
    return {
        "measured_at": datetime.now(UTC).date().isoformat(),
        "mode": "quick" if options.quick else "full",
        "effort": asdict(effort),
        "machine": machine(),
        "versions": versions(places),
        "cells": figures.summarise_load(samples),
        "starts": figures.summarise_starts(timed),
        "memory_after_mib": memory_after,
        "growth": growth,
        "hang_ups": left,
        "ratios": figures.ratios(samples, timed),
        "floors": figures.floors(samples),
        "extras": figures.extras(samples),
        "noise": figures.summarise_noise(samples),
    }


def keep(rows: list[dict[str, Any]]) -> None:
    """Leave every single sample where a doubtful figure can be looked up."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (build.build_folder() / "samples.jsonl").write_text(lines)


def versions(places: Places) -> dict[str, str]:
    found = own_versions()
    peers = {"sglang-router": places.smg_python, "litellm": places.litellm_python}
    for name, python in peers.items():
        if python:
            line = f"from importlib.metadata import version; print(version({name!r}))"
            done = subprocess.run((python, "-c", line), capture_output=True, text=True, check=True)
            found[name] = done.stdout.strip()
    return found


if __name__ == "__main__":
    sys.exit(main())
