"""`python -m benchmarks.sandbox`: measure, and write docs/benchmarks/sandbox.json and sandbox.md.

`python -m benchmarks.sandbox.crash` and `.soak` do the same for two parts that the page shows too.
With DOCKER_HOST and SANDBOX_DOCKER_IMAGE set, as scripts/docker_engine.py prints them, the Docker
runner is measured beside `docker run`.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import build
from benchmarks.machine import machine, own_versions
from benchmarks.processes import BenchError
from benchmarks.sandbox import figures, measure, page


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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sandbox", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short; results stay in .build")
    parser.add_argument("--page-only", action="store_true", help="write the page from the json")
    return parser.parse_args(arguments)


def run(*, is_quick: bool) -> dict[str, Any]:
    effort = measure.QUICK if is_quick else measure.FULL
    with tempfile.TemporaryDirectory(prefix="insula-bench-") as scratch:
        bench = measure.Bench(sys.executable, Path(scratch), effort)
        with bench.open():
            samples = list(bench.rounds())
            memory = bench.idle_memory()
    keep(samples)
    return {
        "measured_at": datetime.now(UTC).date().isoformat(),
        "mode": "quick" if is_quick else "full",
        "effort": asdict(effort),
        "machine": machine(),
        "versions": own_versions(),
        "tier": bench.tier,
        "missing": bench.missing,
        "memory": memory,
        **figures.summarise(samples),
    }


def keep(samples: list[measure.Sample]) -> None:
    """Leave every single sample where a doubtful figure can be looked up."""
    lines = "".join(json.dumps(sample) + "\n" for sample in samples)
    (build.build_folder() / "sandbox-samples.jsonl").write_text(lines)


if __name__ == "__main__":
    sys.exit(main())
