"""The figures that must hold: what is asked, what was measured, and why when it is missed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import starts
from benchmarks.figures import FLOORS
from benchmarks.hangups import PHASES
from benchmarks.targets import BARE, DIRECT, INSULA, LITELLM, LITESTAR, OWN, REFERENCE, SMG

Results = dict[str, Any]

NONE = "-"
CUT_LIMIT_MS = 50
GROWTH_LIMIT = 0.03
MEMORY_LIMIT_MIB = 130

PLAIN = "a plain call, 16 connections"
ONE = "added p50, one connection"
STEADY = "added p50, 20 calls a second"
SERVER_ALONE = (
    "*{who}*, the same server answering by itself with no key, no upstream and no usage row, is at "
    "{floor}, which is the limit for any gateway behind it. What lies between is the call to the "
    "upstream and the features that are on."
)
NO_FEATURES = (
    "*{who}*, the same server and the same HTTP client with none of the features, is at {floor}: "
    "the rest is spent on the key and its limits, the choice, the reservation, the reading of the "
    "answer, the usage row and the metrics, which the others leave out."
)
HIT_IS_MORE = (
    "A hit is still a call: its key is checked, its model looked up, its row written down and "
    "counted, and its headers say so. *{who}* does none of it."
)
PASSING = (
    "*{who}*, which passes the same bytes with no feature on, is at {floor}. What lies between is "
    "the check of the key and its limits, the reading of the usage, and the row."
)
START_IS_MORE = (
    "The line imports the two largest packages. A server has a parent process before that (0.2 s), "
    "imports its modules (0.3 s), makes their 250 routes (0.3 s) and opens them, with the first "
    "processes of the sandbox beside it."
)
NO_BETTER = "*{who}*, which does less, is no better: {floor}."


@dataclass(frozen=True)
class Bound:
    """One ratio that must hold: at most `limit`, or at least. `unit` is how it is written."""

    figure: str
    ratio: str
    limit: float
    peer: str
    cell: str
    metric: str
    unit: str
    is_least: bool = False
    is_part: bool = False
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """One line of the table; `why` is for the lines below it, when the figure is missed."""

    figure: str
    must: str
    measured: str
    reference: str
    is_met: bool | None
    why: str = ""

    @property
    def row(self) -> tuple[str, str, str, str]:
        shown = f"**{self.measured}: missed**" if self.is_met is False else self.measured
        return self.figure, self.must, shown, self.reference


CPU: Final = ("plain-16", "cpu_ms", "CPU-ms")
RATE: Final = ("plain-16", "requests_per_s", "requests/s")
FIRST: Final = ("plain-1", "added_p50_ms", "ms")
OPEN: Final = ("plain-20-a-second", "added_p50_ms", "ms")
BOUNDS: Final = (
    Bound(
        f"CPU of {PLAIN}", "cpu_to_reference", 1.5, REFERENCE, *CPU, beside=(LITESTAR, SMG, BARE)
    ),
    Bound(f"CPU of {PLAIN}", "cpu_to_litellm", 1 / 25, LITELLM, *CPU, is_part=True),
    Bound(f"requests/s of {PLAIN}", "requests_to_litellm", 25, LITELLM, *RATE, is_least=True),
    Bound(
        f"requests/s of {PLAIN}",
        "requests_to_smg",
        0.6,
        SMG,
        *RATE,
        is_least=True,
        beside=(REFERENCE, OWN, BARE),
    ),
    Bound(ONE, "added_p50_to_litellm", 1 / 8, LITELLM, *FIRST, is_part=True),
    Bound(ONE, "added_p50_to_reference", 2, REFERENCE, *FIRST, beside=(SMG,)),
    Bound(STEADY, "steady_added_p50_to_litellm", 1 / 8, LITELLM, *OPEN, is_part=True),
    Bound(STEADY, "steady_added_p50_to_reference", 2, REFERENCE, *OPEN, beside=(SMG,)),
    Bound(
        "events/s of 8 streams without delay",
        "fast_events_to_direct",
        0.5,
        DIRECT,
        "stream-8",
        "events_per_s",
        "events/s",
        is_least=True,
        beside=(REFERENCE, SMG),
    ),
    Bound(
        "CPU of an event, 64 streams, one every 10 ms",
        "paced_event_cpu_to_reference",
        1.4,
        REFERENCE,
        "paced-64",
        "cpu_us_per_event",
        "µs",
        beside=(LITESTAR, SMG),
    ),
)
PROMPTS: Final = (
    ("CPU of a 100 KB prompt over 1 KB", "prompt_100kb_cpu_ms", 0.15),
    ("CPU of a 1 MB prompt over 1 KB", "prompt_1mb_cpu_ms", 1.2),
)
STARTS: Final = (
    Bound("start, to the first 200", "start_to_import", 1.5, starts.IMPORT, "", "seconds", "s"),
    Bound(
        "start, to the first 200",
        "start_to_litellm",
        1 / 3,
        LITELLM,
        "",
        "seconds",
        "s",
        is_part=True,
    ),
)


def verdicts(results: Results, truth: Results | None) -> Iterator[Verdict]:
    """Every figure that must hold, in the order of the page."""
    for bound in BOUNDS:
        yield _bound(bound, results, results["cells"].get(bound.cell, {}))
    yield _hang_ups(results)
    for name, key, limit_ms in PROMPTS:
        yield _prompt(name, limit_ms, results.get("extras", {}).get(key, {}))
    yield _growth(results.get("growth"))
    yield _cache_hit(results)
    yield _truth(truth)
    for bound in STARTS:
        yield _bound(bound, results, results["starts"])
    yield from _idle_memory(results)


def _bound(bound: Bound, results: Results, rows: dict[str, Any]) -> Verdict:
    value = results["ratios"].get(bound.ratio)
    read = _reader(rows, bound.metric, bound.unit)
    must = _must(bound)
    others = [f"{read(name)} ({name})" for name in (bound.peer, *bound.beside) if name in rows]
    reference = ", ".join(others) or NONE
    if value is None:
        return Verdict(bound.figure, must, "not measured", reference, None)
    is_met = value >= bound.limit if bound.is_least else value <= bound.limit
    measured = f"{_multiple(bound, value)} ({read(INSULA)})"
    return Verdict(bound.figure, must, measured, reference, is_met, _why(bound, value, results))


def _must(bound: Bound) -> str:
    sign = "≥" if bound.is_least else "≤"
    share = f"1/{1 / bound.limit:.0f} of" if bound.is_part else f"{bound.limit:g} x"
    return f"{sign} {share} {bound.peer}"


def _multiple(bound: Bound, value: float) -> str:
    return f"1/{number(1 / value)}" if bound.is_part and value else f"{number(value)} x"


def _why(bound: Bound, value: float, results: Results) -> str:
    if bound.ratio == "start_to_import":
        return START_IS_MORE
    floor = results.get("floors", {}).get(bound.ratio)
    who = FLOORS.get(bound.ratio)
    if floor is None or who is None:
        return ""
    text = {BARE: SERVER_ALONE, OWN: NO_FEATURES}.get(who, PASSING)
    if (value >= floor) == bound.is_least:
        text = NO_BETTER
    joint = " of" if bound.is_part else ""
    return text.format(who=who, floor=f"{_multiple(bound, floor)}{joint} {bound.peer}")


def _hang_ups(results: Results) -> Verdict:
    """All phases together: the share that was cut, and the latest of all."""
    seen = results["hang_ups"].get(INSULA, {})
    found = {
        f"{phase}, {kind}": row for phase in PHASES for kind, row in seen.get(phase, {}).items()
    }
    figure, must = "clients that leave, in any phase", f"all cut, ≤ {CUT_LIMIT_MS} ms"
    if not found:
        return Verdict(figure, must, "not measured", NONE, None)
    cut, calls = sum(row["cut"] for row in found.values()), sum(r["calls"] for r in found.values())
    late_ms = max(row["last_after_ms"] or 0.0 for row in found.values())
    missed = [
        f"{name}: {row['cut']} of {row['calls']}, the last after {number(row['last_after_ms'])} ms"
        for name, row in found.items()
        if row["cut"] < row["calls"] or (row["last_after_ms"] or 0) > CUT_LIMIT_MS
    ]
    why = (
        f"{'; '.join(missed)}. The watch for a client begins 10 to 20 ms into its call, and a "
        "cancellation waits for the event loop's next turn."
    )
    measured = f"{cut} of {calls}, the last after {number(late_ms)} ms"
    return Verdict(figure, must, measured, f"{len(found)} phases and kinds", not missed, why)


def _prompt(name: str, limit_ms: float, extra: dict[str, float | None]) -> Verdict:
    mine = extra.get(INSULA)
    must = f"≤ {limit_ms} CPU-ms"
    peers = (REFERENCE, SMG, LITELLM)
    others = [f"{number(extra[who])} ({who})" for who in peers if extra.get(who) is not None]
    reference = ", ".join(others) or NONE
    if mine is None:
        return Verdict(name, must, "not measured", reference, None)
    floor = extra.get(REFERENCE)
    rest = "The rest is what more is done with them."
    if floor is not None and floor >= mine:
        rest = "Nothing more is done with them."
    why = (
        f"*{REFERENCE}* takes {number(floor)} CPU-ms for the same bytes: the copies in and out, "
        f"and one scan of the JSON. {rest}"
    )
    return Verdict(name, must, f"{number(mine)} CPU-ms", reference, mine <= limit_ms, why)


def _growth(growth: Results | None) -> Verdict:
    must = f"≤ {GROWTH_LIMIT:.0%}"
    if growth is None:
        return Verdict("growth of RSS", must, "not measured", NONE, None)
    first, last = (spaced(growth[end]) for end in ("from_request", "to_request"))
    shown = f"{growth['from_mib']:.0f} to {growth['to_mib']:.0f} MiB"
    calls = growth["to_request"] - growth["from_request"]
    bytes_each = (growth["to_mib"] - growth["from_mib"]) * 2**20 / calls
    why = f"That is {bytes_each:.0f} bytes a call; a leak of a call's state would be thousands."
    is_met = growth["growth"] <= GROWTH_LIMIT
    figure = f"growth of RSS from request {first} to {last}"
    return Verdict(figure, must, f"{growth['growth']:.1%}", shown, is_met, why)


def _cache_hit(results: Results) -> Verdict:
    figure, must = "CPU of an answer from the cache, 16 connections", f"≤ 1 x {BARE}"
    rows, ratio = results["cells"].get("cache-hit", {}), results["ratios"]
    cpu, rate = _reader(rows, "cpu_ms", "CPU-ms"), _reader(rows, "requests_per_s", "requests/s")
    shown = NONE if BARE not in rows else f"{cpu(BARE)}, {rate(BARE)} ({BARE})"
    value = ratio.get("cache_hit_cpu_to_bare")
    if value is None:
        return Verdict(figure, must, "not measured", shown, None)
    share = number(ratio.get("cache_hit_requests_to_bare"))
    measured = f"{number(value)} x, {share} x the rate ({cpu(INSULA)}, {rate(INSULA)})"
    return Verdict(figure, must, measured, shown, value <= 1, HIT_IS_MORE.format(who=BARE))


def _truth(truth: Results | None) -> Verdict:
    figure, must = "usage rows against the upstream's own counts", "0 lost, 0 doubled, 0 unpriced"
    if truth is None:
        return Verdict(figure, must, "not measured", NONE, None)
    wrong = truth["differences"]
    shown = ", ".join(f"{wrong.get(kind, 0)} {kind}" for kind in ("lost", "doubled", "unpriced"))
    others = {kind: count for kind, count in wrong.items() if count}
    beside = f"{spaced(truth['calls'])} calls, {truth['kills']} times `kill -9`"
    why = "; ".join(f"{count} x {kind}" for kind, count in others.items()) + "."
    return Verdict(figure, must, shown, beside, not others, why)


def _idle_memory(results: Results) -> Iterator[Verdict]:
    timed = results["starts"]
    memory = _reader(timed, "pss_mib", "MiB")
    for suffix in ("", starts.LEAN):
        mine = timed.get(INSULA + suffix, {}).get("pss_mib")
        if mine is None:
            continue
        others = f"{memory(LITELLM)} ({LITELLM}), {memory(REFERENCE)} ({REFERENCE})"
        yield Verdict(
            f"idle memory (PSS){suffix}",
            f"≤ {MEMORY_LIMIT_MIB} MiB",
            f"{mine:.0f} MiB",
            others,
            mine <= MEMORY_LIMIT_MIB,
            f"The pass-through alone, with its parent process, is at {memory(REFERENCE)}.",
        )


def _reader(rows: dict[str, Any], metric: str, unit: str) -> Callable[[str], str]:
    def read(name: str) -> str:
        value = rows.get(name, {}).get(metric)
        return NONE if value is None else f"{number(value)} {unit}"

    return read


def spaced(value: int) -> str:
    """A whole number, in groups of three digits."""
    return f"{value:,}".replace(",", " ")


def number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return NONE
    digits = next((3 - power for power in (-1, 0, 1, 2) if abs(value) < 10**power), 0)
    return f"{value:.{digits}f}" if value else "0"
