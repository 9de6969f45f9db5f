"""The figures that must hold: what is asked, what was measured, and why when it is missed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.sandbox.figures import BEST
from benchmarks.sandbox.measure import (
    COLD,
    DOCKER,
    DOCKER_HAND,
    HTTP,
    HTTP_READY,
    LOOPS,
    PANDAS,
    PANDAS_HAND,
    PASS,
    PRINT,
    RATE,
    WARM,
)
from benchmarks.verdicts import NONE, Results, Verdict, number, spaced

MEMORY_LIMIT_MIB = 4
NAMES: Final = {
    PASS: "`python3 -I -c pass`",
    PRINT: '`python3 -I -c "print(1)"`',
    PANDAS_HAND: "a fresh process that imports pandas",
    LOOPS: "two loops of `python3 -I -c pass`",
    DOCKER_HAND: "`docker run --rm`",
}


@dataclass(frozen=True)
class Bound:
    """One ratio that must hold: at most `limit`, or at least. `reach` is what was hoped for.

    `part`: what is missing on the machine when it has not been measured. `inside`: what of it is
    measured alone, which says where the rest goes.
    """

    figure: str
    ratio: str
    limit: float
    cell: str
    peer: str
    metric: str
    unit: str
    is_least: bool = False
    reach: float = 0
    part: str = ""
    inside: tuple[tuple[str, str], ...] = ()


READY = (WARM, "a ready worker, without a server")
NEW = (COLD, "a new worker, without a server")
BOUNDS: Final = (
    Bound(
        "ready worker, from its job to the result",
        "warm_to_hand",
        0.45,
        WARM,
        PASS,
        *("median_ms", "ms"),
    ),
    Bound(
        "`POST /sandbox/execute?wait=1`, one after the other",
        "http_to_hand",
        1.0,
        HTTP,
        PRINT,
        "median_ms",
        "ms",
        reach=0.6,
        inside=(READY, NEW, (HTTP_READY, "over HTTP, when the pool is full again")),
    ),
    Bound(
        "new worker, from nothing to the result",
        "cold_to_hand",
        1.6,
        COLD,
        PRINT,
        "median_ms",
        "ms",
    ),
    Bound(
        "a DataFrame operation, pandas preloaded, over HTTP",
        "pandas_to_hand",
        0.08,
        PANDAS,
        PANDAS_HAND,
        "median_ms",
        "ms",
        part="pandas",
    ),
    Bound(
        "scripts a second over HTTP",
        "rate_to_loops",
        0.5,
        BEST,
        LOOPS,
        "per_s",
        "a second",
        is_least=True,
        inside=(NEW,),
    ),
    Bound(
        "Docker runner, over HTTP",
        "docker_to_hand",
        0.1,
        DOCKER,
        DOCKER_HAND,
        "median_ms",
        "ms",
        part="docker",
    ),
)


def verdicts(results: Results, crash: Results | None, soak: Results | None) -> Iterator[Verdict]:
    """Every figure that must hold, in the order of the page."""
    for bound in BOUNDS:
        yield _bound(bound, results)
    yield _memory(results)
    if crash is not None:
        yield _crash(crash)
    if soak is not None:
        yield _soak(soak)


def _bound(bound: Bound, results: Results) -> Verdict:
    read = _reader(results, bound)
    sign = "≥" if bound.is_least else "≤"
    must = f"{sign} {bound.limit:g} x" + (f", reach {bound.reach:g}" if bound.reach else "")
    value = results["ratios"].get(bound.ratio)
    if value is None:
        why = results["missing"].get(bound.part, "")
        shown = f"not measured: {why}" if why else "not measured"
        return Verdict(bound.figure, must, shown, NAMES[bound.peer], None)
    is_met = value >= bound.limit if bound.is_least else value <= bound.limit
    measured = f"{number(value)} x ({read(bound.cell)})"
    reference = f"{read(bound.peer)} ({NAMES[bound.peer]})"
    return Verdict(_figure(bound, results), must, measured, reference, is_met, _why(bound, results))


def _figure(bound: Bound, results: Results) -> str:
    if bound.cell != BEST:
        return bound.figure
    return f"{bound.figure}, {results['best_clients']} clients"


def _why(bound: Bound, results: Results) -> str:
    """Where the time goes, as far as parts of it are measured alone."""
    cells = results["cells"]
    parts = [
        f"{number(cells[cell]['median_ms'])} ms ({name})"
        for cell, name in bound.inside
        if cell in cells
    ]
    return f"Measured alone: {', '.join(parts)}." if parts else ""


def _reader(results: Results, bound: Bound) -> Callable[[str], str]:
    def read(cell: str) -> str:
        name = f"{RATE}-{results['best_clients']}" if cell == BEST else cell
        return f"{number(results['cells'][name][bound.metric])} {bound.unit}"

    return read


def _memory(results: Results) -> Verdict:
    figure, must = "an idle worker (PSS)", f"≤ {MEMORY_LIMIT_MIB} MiB"
    found: list[dict[str, Any]] = results["memory"]
    if not found:
        why = results["missing"].get("memory", "")
        return Verdict(figure, must, f"not measured: {why}", NONE, None)
    many, *others = found
    measured_mib = max(many["mean_mib"], many["median_mib"])
    shown = [f"{number(row['mean_mib'])} MiB of {row['workers']} workers" for row in others]
    shown.append(f"{number(many['added_mib'])} MiB more with each of {many['workers']}")
    measured = f"{number(measured_mib)} MiB, of {many['workers']} workers"
    is_met = measured_mib <= MEMORY_LIMIT_MIB
    return Verdict(figure, must, measured, ", ".join(shown), is_met)


def _crash(crash: Results) -> Verdict:
    wrong = {kind: count for kind, count in crash["wrong"].items() if count}
    return Verdict(
        "executions through `kill -9` of the server",
        "none lost, none run twice",
        ", ".join(f"{count} {kind}" for kind, count in crash["wrong"].items()),
        f"{spaced(crash['executions'])} executions, {crash['kills']} times `kill -9`",
        not wrong,
        f"{', '.join(f'{count} x {kind}' for kind, count in wrong.items())}.",
    )


def _soak(soak: Results) -> Verdict:
    wrong = soak["wrong"]
    shown = f"server {soak['server_growth']:+.1%}, zygotes {soak['zygote_growth']:+.1%}"
    return Verdict(
        f"RSS over {soak['minutes']:g} minutes of mixed load",
        "flat, nothing left behind",
        shown + (", nothing left" if not wrong else ""),
        f"{spaced(soak['executions'])} executions",
        not wrong,
        f"{'; '.join(wrong)}.",
    )
