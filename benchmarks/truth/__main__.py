"""`python -m benchmarks.truth`: is every model call billed once, and as it was?

Makes mixed calls against an upstream that keeps its own books, kills the server in the middle, and
compares the usage rows with these books and with what each client has had. Ends with 1 when one
call differs. Only a run of the full length changes docs/benchmarks.
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from pathlib import Path

import uvloop

from benchmarks import build, page
from benchmarks.processes import BenchError
from benchmarks.targets import Places, Street
from benchmarks.truth.soak import Soak, killed, results, run

FULL_CALLS = 100_000
FULL_KILLS = 2


def main() -> int:
    options = read_options()
    soak = Soak(options.calls, options.kills, options.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with tempfile.TemporaryDirectory(prefix="insula-truth-") as scratch:
            street = Street(places(Path(scratch)))
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                findings, seconds = runner.run(run(street, soak))
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    is_full = soak.calls >= FULL_CALLS and soak.kills >= FULL_KILLS
    folder = page.DOCS if is_full else build.build_folder()
    page.write(page.TRUTH, results(soak, findings, seconds), folder)
    if page.read(page.RESULTS, folder):
        page.publish(folder)
    print(page.table(findings.table[0], findings.table[1:]))
    print(", ".join(f"{count} {kind}" for kind, count in findings.differences.items()))
    print(killed(findings))
    print("\n".join(findings.examples), file=sys.stderr)
    return 0 if findings.is_true else 1


def places(scratch: Path) -> Places:
    return Places(
        upstream=build.program("upstream"),
        load=build.program("load"),
        python=sys.executable,
        scratch=scratch,
    )


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.truth", description=__doc__)
    parser.add_argument("--calls", type=int, default=FULL_CALLS)
    parser.add_argument("--kills", type=int, default=FULL_KILLS, help="times `kill -9`")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
