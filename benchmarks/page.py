"""The results as a page."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks import starts
from benchmarks.measure import CELLS, Cell
from benchmarks.targets import DIRECT, INSULA, LITELLM, REFERENCE, TWIN

Results = dict[str, Any]

RESULTS: Final = Path(__file__).parents[1] / "docs" / "benchmarks" / "gateway.json"

CPU_LIMIT = 1.6
CPU_LITELLM_LIMIT = 1 / 25
ADDED_LIMIT = 2.0
START_LIMIT = 1.5
START_LITELLM_LIMIT = 1 / 3
MEMORY_LIMIT_MIB = 130
PAIR_LIMIT = 0.05
FOREIGN_LIMIT_CORES = 0.3
NONE = "-"
ORDER: Final = (DIRECT, REFERENCE, TWIN, INSULA, LITELLM)
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
and through LiteLLM's proxy with one worker and no database. Read the ratios: they are formed
inside a round and carry over to other machines; requests a second do not.
"""
METHOD = """\
## How it was measured

- {rounds} rounds of {seconds} s a cell, every target in every round, in a shuffled order. Figures
  are medians over the rounds, ratios are medians of the ratios inside a round.
- CPU is that of the whole process tree, all threads and children, from the kernel's nanosecond
  counters, until the target is idle again: nobody pays for a neighbour's backlog. It is the
  steadiest figure.
- The CPU of *{direct}* is the upstream's own.
- One worker each. Bytecode is compiled. Insula runs with its default settings: key check, limits,
  a usage row for every call, metrics, access log and the watch for clients that leave are on. The
  watch begins 20 ms into a call: calls of this benchmark that end sooner do not pay for it.
- At 16 connections the loop is closed and the machine saturated, so latency there is queueing;
  what a gateway adds is read at one connection, or at 20 calls a second.
- The upstream is a C program (`benchmarks/upstream.c`) that never limits a plain call.
- Two identical pass-throughs ran in every round and differed by {apart}: {verdict}.
- Other work on the machine took {foreign} cores (median over the cells, 90th percentile
  {foreign_p90}); the hypervisor took {stolen}.
"""


def render(results: Results) -> str:
    """The whole page."""
    cells = [cell for cell in CELLS if cell.name in results["cells"]]
    parts = [
        INTRODUCTION.format(direct=DIRECT, reference=REFERENCE),
        table(("figure", "must", "measured", "reference"), _verdicts(results)),
        *(_cell(cell, results["cells"][cell.name]) for cell in cells),
        _starts(results),
        _hang_ups(results["hang_ups"]),
        _ratios(results["ratios"]),
        _method(results),
        _machine(results),
    ]
    return "\n".join(parts)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(head), *(tuple(row) for row in rows)]
    lines.insert(1, tuple("---" for _ in lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def readme_table() -> str:
    """The first table of the page, from the committed results."""
    if not RESULTS.exists():
        return "Not measured yet."
    head = ("figure", "must", "measured", "reference")
    return table(head, _verdicts(json.loads(RESULTS.read_text()))).rstrip()


def _verdicts(results: Results) -> Iterable[tuple[str, ...]]:
    ratio, cells, timed = results["ratios"], results["cells"], results["starts"]
    sixteen, one = cells.get("plain-16", {}), cells.get("plain-1", {})
    cpu = _reader(sixteen, "cpu_ms", "CPU-ms")
    added = _reader(one, "added_p50_ms", "ms")
    start = _reader(timed, "seconds", "s")
    memory = _reader(timed, "pss_mib", "MiB")
    name = "CPU of a plain call, 16 connections"
    yield _times(name, CPU_LIMIT, ratio["cpu_to_reference"], cpu, REFERENCE)
    yield _part(name, CPU_LITELLM_LIMIT, ratio["cpu_to_litellm"], cpu)
    name = "added p50, one connection"
    row = _times(name, ADDED_LIMIT, ratio["added_p50_to_reference"], added, REFERENCE)
    peer = number(ratio["added_p50_of_litellm_to_reference"])
    yield (*row[:3], f"{row[3]}; LiteLLM adds {peer} x" if peer != NONE else row[3])
    name = "start, to the first 200"
    yield _times(name, START_LIMIT, ratio["start_to_import"], start, starts.IMPORT)
    yield _part(name, START_LITELLM_LIMIT, ratio["start_to_litellm"], start)
    for suffix in ("", starts.LEAN):
        mine = timed.get(INSULA + suffix, {}).get("pss_mib")
        if mine is not None:
            must, shown = f"≤ {MEMORY_LIMIT_MIB} MiB", f"{mine:.0f} MiB"
            others = f"{memory(LITELLM)} ({LITELLM}), {memory(REFERENCE)} ({REFERENCE})"
            yield f"idle memory (PSS){suffix}", must, _mark(shown, mine, MEMORY_LIMIT_MIB), others


def _times(
    name: str, limit: float, value: float | None, read: Callable[[str], str], peer: str
) -> tuple[str, ...]:
    shown = f"{number(value)} x ({read(INSULA)})"
    return name, f"≤ {limit:g} x {peer}", _mark(shown, value, limit), f"{read(peer)} ({peer})"


def _part(
    name: str, limit: float, value: float | None, read: Callable[[str], str]
) -> tuple[str, ...]:
    shown = f"1/{number(1 / value)} ({read(INSULA)})" if value else NONE
    must = f"≤ 1/{1 / limit:.0f} of {LITELLM}"
    return name, must, _mark(shown, value, limit), f"{read(LITELLM)} ({LITELLM})"


def _mark(shown: str, value: float | None, limit: float) -> str:
    if value is None:
        return "not measured"
    return shown if value <= limit else f"**{shown}: missed**"


def _reader(rows: dict[str, Any], metric: str, unit: str) -> Callable[[str], str]:
    def read(name: str) -> str:
        value = rows.get(name, {}).get(metric)
        return NONE if value is None else f"{number(value)} {unit}"

    return read


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
    rows = []
    for name, row in seen.items():
        shown = [name]
        for kind in ("streams", "plain"):
            late = row[kind]["last_after_ms"]
            shown += [f"{row[kind]['cut']} / {row[kind]['calls']}"]
            shown += [NONE if late is None else f"{late:.1f} ms"]
        rows.append(shown)
    text = (
        "Clients leave in the middle; what counts is whether the upstream sees its own call cut "
        "within a second, and how long after the last client left.\n\n"
    )
    head = "target", "streams cut", "last after", "plain calls cut", "last after"
    return "## Clients that leave\n\n" + text + table(head, rows)


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


def number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return NONE
    digits = next((3 - power for power in (-1, 0, 1, 2) if abs(value) < 10**power), 0)
    return f"{value:.{digits}f}" if value else "0"
