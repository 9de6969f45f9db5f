"""From samples to medians, and to ratios that are formed inside a round."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any, Final

from benchmarks import starts
from benchmarks.measure import (
    BIG,
    CELLS,
    FAST,
    HIT,
    HUGE,
    KILOBYTE,
    ONE,
    PACED,
    SIXTEEN,
    STEADY,
    Cell,
    Sample,
)
from benchmarks.starts import Start
from benchmarks.targets import BARE, DIRECT, INSULA, LITELLM, LITESTAR, OWN, REFERENCE, SMG, TWIN

METRICS: Final = (
    "requests_per_s",
    "events_per_s",
    "cpu_ms",
    "cpu_us_per_event",
    "p50_ms",
    "p99_ms",
    "added_p50_ms",
    "first_p50_ms",
    "added_first_ms",
    "gap_p50_ms",
    "gap_p99_ms",
    "foreign_cores",
    "stolen_cores",
)
RATIOS: Final = {
    "cpu_to_reference": (SIXTEEN, "cpu_ms", INSULA, REFERENCE),
    "cpu_to_litestar": (SIXTEEN, "cpu_ms", INSULA, LITESTAR),
    "cpu_to_smg": (SIXTEEN, "cpu_ms", INSULA, SMG),
    "cpu_to_litellm": (SIXTEEN, "cpu_ms", INSULA, LITELLM),
    "requests_to_reference": (SIXTEEN, "requests_per_s", INSULA, REFERENCE),
    "requests_to_smg": (SIXTEEN, "requests_per_s", INSULA, SMG),
    "requests_to_litellm": (SIXTEEN, "requests_per_s", INSULA, LITELLM),
    "added_p50_to_reference": (ONE, "added_p50_ms", INSULA, REFERENCE),
    "added_p50_to_smg": (ONE, "added_p50_ms", INSULA, SMG),
    "added_p50_to_litellm": (ONE, "added_p50_ms", INSULA, LITELLM),
    "steady_added_p50_to_reference": (STEADY, "added_p50_ms", INSULA, REFERENCE),
    "steady_added_p50_to_litellm": (STEADY, "added_p50_ms", INSULA, LITELLM),
    "cpu_one_connection_to_reference": (ONE, "cpu_ms", INSULA, REFERENCE),
    "fast_events_to_direct": (FAST, "events_per_s", INSULA, DIRECT),
    "fast_events_to_smg": (FAST, "events_per_s", INSULA, SMG),
    "fast_events_to_litellm": (FAST, "events_per_s", INSULA, LITELLM),
    "fast_event_cpu_to_reference": (FAST, "cpu_us_per_event", INSULA, REFERENCE),
    "paced_event_cpu_to_reference": (PACED, "cpu_us_per_event", INSULA, REFERENCE),
    "paced_gap_p99_to_direct": (PACED, "gap_p99_ms", INSULA, DIRECT),
    "cache_hit_cpu_to_bare": (HIT, "cpu_ms", INSULA, BARE),
    "cache_hit_requests_to_bare": (HIT, "requests_per_s", INSULA, BARE),
    "pair_cpu": (SIXTEEN, "cpu_ms", TWIN, REFERENCE),
    "pair_requests": (SIXTEEN, "requests_per_s", TWIN, REFERENCE),
}
# What the same ratio is for somebody who does less: nobody who does more comes below.
FLOORS: Final = {
    "cpu_to_reference": BARE,
    "cpu_to_litellm": BARE,
    "requests_to_smg": OWN,
    "requests_to_litellm": BARE,
    "added_p50_to_reference": BARE,
    "added_p50_to_litellm": BARE,
    "steady_added_p50_to_reference": BARE,
    "steady_added_p50_to_litellm": BARE,
    "fast_events_to_direct": REFERENCE,
    "paced_event_cpu_to_reference": LITESTAR,
}
# What a large prompt costs beyond a small one.
EXTRAS: Final = {"prompt_100kb_cpu_ms": BIG, "prompt_1mb_cpu_ms": HUGE}
START_RATIOS: Final = {
    "start_to_import": (starts.WARM, starts.IMPORT),
    "start_to_litellm": (starts.WARM, LITELLM),
    "start_to_reference": (starts.WARM, REFERENCE),
    "first_start_to_import": (starts.FIRST, starts.IMPORT),
    "first_start_to_litellm": (starts.FIRST, LITELLM),
    "lean_start_to_import": (starts.WARM + starts.LEAN, starts.IMPORT + starts.LEAN),
}


def summarise_load(samples: list[Sample]) -> dict[str, Any]:
    """Medians of each cell and target."""
    _add_differences(samples)
    cells = {}
    for cell in CELLS:
        rows = [sample for sample in samples if sample["cell"] == cell.name]
        names = dict.fromkeys(row["target"] for row in sorted(rows, key=lambda row: row["target"]))
        if rows:
            cells[cell.name] = {name: _medians(rows, name) for name in names}
    return cells


def ratios(samples: list[Sample], timed: list[Start]) -> dict[str, float | None]:
    """Medians over the rounds of one figure divided by another of the same round."""
    found = {
        name: _ratio(_loads(samples, cell, metric, above), _loads(samples, cell, metric, below))
        for name, (cell, metric, above, below) in RATIOS.items()
    }
    for name, (above, below) in START_RATIOS.items():
        found[name] = _ratio(_starts(timed, above), _starts(timed, below))
    return found


def floors(samples: list[Sample]) -> dict[str, float | None]:
    """The ratios of `FLOORS`, with the other one in Insula's place."""
    found = {}
    for name, who in FLOORS.items():
        cell, metric, _, below = RATIOS[name]
        above = _loads(samples, cell, metric, who)
        found[name] = _ratio(above, _loads(samples, cell, metric, below))
    return found


def extras(samples: list[Sample]) -> dict[str, dict[str, float | None]]:
    """CPU-ms of a call with a large prompt, less those of one with 1 KB in the same round."""
    found: dict[str, dict[str, float | None]] = {}
    for name, cell in EXTRAS.items():
        found[name] = {}
        for target in cell.targets:
            small = _loads(samples, KILOBYTE, "cpu_ms", target)
            large = _loads(samples, cell, "cpu_ms", target)
            found[name][target] = _median(large[n] - small[n] for n in large.keys() & small.keys())
    return found


def summarise_starts(timed: list[Start]) -> dict[str, dict[str, float | None]]:
    kinds = dict.fromkeys(sorted(start["kind"] for start in timed))
    return {
        kind: {
            metric: _median(start.get(metric) for start in timed if start["kind"] == kind)
            for metric in ("seconds", "cpu_s", "pss_mib")
        }
        for kind in kinds
    }


def summarise_noise(samples: list[Sample]) -> dict[str, float | None]:
    """How much the machine did for others meanwhile."""
    foreign = sorted(sample["foreign_cores"] for sample in samples)
    return {
        "foreign_cores_median": _median(foreign),
        "foreign_cores_p90": foreign[int(0.9 * (len(foreign) - 1))],
        "stolen_cores_median": _median(sample["stolen_cores"] for sample in samples),
    }


def _add_differences(samples: list[Sample]) -> None:
    direct = {(row["cell"], row["round"]): row for row in samples if row["target"] == DIRECT}
    for row in samples:
        base = direct.get((row["cell"], row["round"]))
        row["added_p50_ms"] = base and row["p50_ms"] - base["p50_ms"]
        row["added_first_ms"] = base and row["first_p50_ms"] - base["first_p50_ms"]


def _medians(rows: list[Sample], target: str) -> dict[str, float | None]:
    mine = [row for row in rows if row["target"] == target]
    medians = {metric: _median(row[metric] for row in mine) for metric in METRICS}
    return medians | {"failed": sum(row["failed"] for row in mine)}


def _loads(samples: list[Sample], cell: Cell, metric: str, target: str) -> dict[int, float]:
    """One figure of one target, by round."""
    mine = (row for row in samples if (row["cell"], row["target"]) == (cell.name, target))
    return {row["round"]: row[metric] for row in mine}


def _starts(timed: list[Start], kind: str) -> dict[int, float]:
    return {start["round"]: start["seconds"] for start in timed if start["kind"] == kind}


def _ratio(above: Mapping[int, float], below: Mapping[int, float]) -> float | None:
    return _median(above[number] / below[number] for number in above if below.get(number))


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 5) if known else None
