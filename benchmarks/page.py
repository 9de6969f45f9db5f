"""The results as a page."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks import starts
from benchmarks.hangups import PHASES
from benchmarks.measure import CELLS, Cell
from benchmarks.processes import BenchError
from benchmarks.targets import (
    BARE,
    DIRECT,
    INSULA,
    LITELLM,
    LITESTAR,
    OWN,
    REFERENCE,
    SMG,
    TWIN,
)
from benchmarks.verdicts import NONE, Results, Verdict, number, spaced, verdicts

DOCS: Final = Path(__file__).parents[1] / "docs" / "benchmarks"
RESULTS = "gateway.json"
TRUTH = "truth.json"
PAGE = "gateway.md"

PAIR_LIMIT = 0.05
FOREIGN_LIMIT_CORES = 0.3
HEAD: Final = ("figure", "must", "measured", "reference")
ORDER: Final = (DIRECT, BARE, OWN, REFERENCE, TWIN, LITESTAR, INSULA, SMG, LITELLM)
PLAIN_COLUMNS: Final = {
    "requests_per_s": "requests/s",
    "cpu_ms": "CPU-ms/request",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "added_p50_ms": "added p50 ms",
}
STREAM_COLUMNS: Final = {
    "events_per_s": "events/s",
    "cpu_us_per_event": "CPU µs/event",
    "first_p50_ms": "first event p50 ms",
    "added_first_ms": "added ms",
    "gap_p50_ms": "gap p50 ms",
    "gap_p99_ms": "gap p99 ms",
}
START_COLUMNS: Final = {
    "seconds": "first 200 after s",
    "cpu_s": "CPU-s",
    "pss_mib": "PSS a second later, MiB",
}

INTRODUCTION = """\
# What the gateway costs

This page is written by `just bench`. Everything ran on one machine, over loopback, side by side:
the same request straight to the upstream (*{direct}*), through a bare pass-through (*{reference}*,
`benchmarks/reference.py`: no framework, no features), through Insula as `python -m app` starts it,
and through other gateways: `smg` (Rust, PyPI `sglang-router`) and LiteLLM's proxy, one worker and
no database. Read the ratios: they are formed inside a round and carry over to other machines;
requests a second do not.
"""
METHOD = """\
## How it was measured

- {rounds} rounds of {seconds} s a cell, every target in every round, in a shuffled order. Figures
  are medians over the rounds, ratios are medians of the ratios inside a round.
- CPU is that of the whole process tree, all threads and children, from the kernel's nanosecond
  counters, until the target is idle again: nobody pays for a neighbour's backlog. It is the
  steadiest figure.
- The CPU of *{direct}* is the upstream's own.
- One worker each. Bytecode is compiled. Insula runs with its default settings and a key that may
  use a list of models within limits (requests and tokens a minute, calls at once, a budget) that
  never bind: every call is checked, reserved, priced and written down as a usage row; metrics,
  access log and the watch for clients that leave are on. The watch begins 10 to 20 ms into a call:
  calls of this benchmark that end sooner do not pay for it.
- LiteLLM checks one key and has no limits; `smg` checks no key, has no limits, keeps no usage, and
  has retries and breakers off.
- *{own}* is the pass-through with the HTTP client that Insula has of its own.
- *{bare}* is this server with an answer of its own: no key, no upstream, no usage row. Nothing
  behind the same server can cost less.
- At 16 connections the loop is closed and the machine saturated, so latency there is queueing;
  what a gateway adds is read at one connection, or at 20 calls a second.
- The upstream is a C program (`benchmarks/upstream.c`) that never limits a plain call.
- Two identical pass-throughs ran in every round and differed by {apart}: {verdict}.
- Other work on the machine took {foreign} cores (median over the cells, 90th percentile
  {foreign_p90}); the hypervisor took {stolen}.
"""


def render(results: Results, truth: Results | None) -> str:
    """The whole page. ``truth``: what `python -m benchmarks.truth` has found."""
    cells = [cell for cell in CELLS if cell.name in results["cells"]]
    found = list(verdicts(results, truth))
    parts = [
        INTRODUCTION.format(direct=DIRECT, reference=REFERENCE),
        table(HEAD, (verdict.row for verdict in found)),
        *_missed(found),
        *(_cell(cell, results["cells"][cell.name]) for cell in cells),
        _hang_ups(results["hang_ups"]),
        *([_truth(truth)] if truth else []),
        _starts(results),
        _ratios(results["ratios"]),
        _method(results),
        _machine(results),
    ]
    return "\n".join(parts)


def publish(folder: Path = DOCS) -> None:
    """Write the page from what runs have left in `folder`."""
    results = read(RESULTS, folder)
    if results is None:
        raise BenchError("Nothing has been measured yet: leave --page-only out.")
    (folder / PAGE).write_text(render(results, read(TRUTH, folder)))


def write(name: str, results: Results, folder: Path = DOCS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def read(name: str, folder: Path = DOCS) -> Results | None:
    """Results that a run has left in `folder`."""
    found = folder / name
    return json.loads(found.read_text()) if found.exists() else None


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(head), *(tuple(row) for row in rows)]
    lines.insert(1, tuple("---" for _ in lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def readme_table() -> str:
    """The first table of the page, from the committed results."""
    results = read(RESULTS)
    if results is None:
        return "Not measured yet."
    return table(HEAD, (verdict.row for verdict in verdicts(results, read(TRUTH)))).rstrip()


def _missed(found: list[Verdict]) -> Iterable[str]:
    lines = [
        f"- {each.figure}, {each.measured}. {each.why}" for each in found if each.is_met is False
    ]
    if lines:
        yield "## What is missed, and why\n\n" + "\n".join(lines) + "\n"


def _cell(cell: Cell, targets: dict[str, Any]) -> str:
    ordered = [(name, targets[name]) for name in ORDER if name in targets]
    columns = STREAM_COLUMNS if cell.is_stream else PLAIN_COLUMNS
    rows = [
        (name, *(number(row[key]) for key in columns), f"{row['failed']}") for name, row in ordered
    ]
    return f"## {cell.title}\n\n" + table(("target", *columns.values(), "failed"), rows)


def _starts(results: Results) -> str:
    after = results["memory_after_mib"]
    head = "what", *START_COLUMNS.values(), "PSS after the load, MiB"
    rows = [
        (kind, *(number(row[key]) for key in START_COLUMNS), number(after.get(kind)))
        for kind, row in results["starts"].items()
    ]
    text = (
        f"The *{starts.IMPORT}* is `python -c '{starts.IMPORT_LINE}'` in the same environment; "
        "a very first start has an empty data folder. "
        f"{results['effort']['starts']} interleaved starts each.\n\n"
    )
    return "## Start and memory\n\n" + text + table(head, rows)


def _hang_ups(seen: dict[str, Any]) -> str:
    kinds = [(phase, kind) for phase in PHASES for kind in ("plain", "streamed")]
    kinds = [
        pair for pair in kinds if any(pair[1] in row.get(pair[0], {}) for row in seen.values())
    ]
    rows = [
        (f"{phase}, {kind}", *(_cut(row.get(phase, {}).get(kind)) for row in seen.values()))
        for phase, kind in kinds
    ]
    text = (
        "Clients leave in the middle of a call. What counts is how many calls are cut within a "
        "second, and how long after its client had left the last of them was. Of calls that the "
        "upstream has, the upstream says so; one that is queued must give its place up and never "
        "reach the upstream; one that is connecting must close its sockets.\n\n"
    )
    return "## Clients that leave\n\n" + text + table(("phase", *seen), rows)


def _cut(row: dict[str, Any] | None) -> str:
    if row is None:
        return NONE
    late = row["last_after_ms"]
    shown = f"{row['cut']} / {row['calls']}"
    return shown if late is None else f"{shown}, {late:.1f} ms"


def _truth(truth: Results) -> str:
    head, *rows = truth["table"]
    wrong = ", ".join(f"{count} {kind}" for kind, count in truth["differences"].items())
    text = (
        f"`python -m benchmarks.truth --seed {truth['seed']}` on {truth['measured_at']}: "
        f"{spaced(truth['calls'])} mixed calls in {truth['seconds']:.0f} s, and {truth['kills']} "
        "times `kill -9` in the middle of them. The upstream's own counts, what each client knows "
        "to have had, and the usage rows, compared call by call:\n\n"
    )
    lost = (
        f"\nDifferences: {wrong}. {truth['killed']} Of a call that its client left, the upstream "
        "tells no usage: its tokens are the request's bytes by four, and the events that passed. "
        "They must be no less than the client had, and no more than the upstream sent.\n"
    )
    return "## Usage rows against the upstream's own counts\n\n" + text + table(head, rows) + lost


def _ratios(ratio: dict[str, float | None]) -> str:
    rows = [(f"`{name}`", number(value)) for name, value in ratio.items() if value is not None]
    return "## Ratios\n\nInsula's figure divided by the other's.\n\n" + table(
        ("ratio", "median"), rows
    )


def _method(results: Results) -> str:
    effort, noise, ratio = results["effort"], results["noise"], results["ratios"]
    apart = max(abs((ratio[name] or 1) - 1) for name in ("pair_cpu", "pair_requests"))
    quiet = (noise["foreign_cores_p90"] or 0) <= FOREIGN_LIMIT_CORES
    verdict = (
        "smaller differences mean nothing" if apart <= PAIR_LIMIT and quiet else "**do not quote**"
    )
    return METHOD.format(
        bare=BARE,
        own=OWN,
        direct=DIRECT,
        rounds=effort["rounds"],
        seconds=effort["seconds"],
        apart=f"{apart:.1%}",
        verdict=verdict,
        foreign=number(noise["foreign_cores_median"]),
        foreign_p90=number(noise["foreign_cores_p90"]),
        stolen=number(noise["stolen_cores_median"]),
    )


def _machine(results: Results) -> str:
    rows = [*results["machine"].items(), *results["versions"].items()]
    rows.append(("measured", f"{results['measured_at']}, {results['mode']}"))
    return "## Machine and versions\n\n" + table(
        ("", ""), ((name, str(value)) for name, value in rows)
    )
