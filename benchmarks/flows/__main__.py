"""`python -m benchmarks.flows`: measure, and write docs/benchmarks.flows.json and .md."""

import argparse
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import build
from benchmarks.flows import measure, page
from benchmarks.machine import machine, own_versions
from benchmarks.processes import BenchError


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    folder = build.build_folder() if options.quick else page.DOCS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if not options.page_only:
            page.write(page.RESULTS, run(is_quick=options.quick), folder)
        page.publish(folder)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    print((folder / page.PAGE).read_text())
    return 0


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flows", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short; results stay in .build")
    parser.add_argument("--page-only", action="store_true", help="write the page from the json")
    return parser.parse_args(arguments)


def run(*, is_quick: bool) -> dict[str, Any]:
    effort = measure.QUICK if is_quick else measure.FULL
    with tempfile.TemporaryDirectory(prefix="insula-bench-") as scratch:
        results = measure.Bench(sys.executable, Path(scratch), effort).run()
    return {
        "measured_at": datetime.now(UTC).date().isoformat(),
        "mode": "quick" if is_quick else "full",
        "effort": asdict(effort),
        "machine": machine(),
        "versions": own_versions(),
        "cells": {
            name: {
                "median": statistics.median(values),
                "least": min(values),
                "most": max(values),
            }
            for name, values in results.cells.items()
        },
        "ratios": {name: results.ratio(*pair) for name, pair in page.RATIOS.items()},
        "facts": results.facts,
    }


if __name__ == "__main__":
    sys.exit(main())
