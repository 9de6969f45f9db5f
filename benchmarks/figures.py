"""From samples to medians, and to ratios that are formed inside a round."""

import statistics
from collections.abc import Callable, Iterable
from typing import Any, Final

from benchmarks import starts
from benchmarks.measure import CELLS, FAST, ONE, PACED, SIXTEEN, Sample
from benchmarks.starts import Start
from benchmarks.targets import DIRECT, INSULA, LITELLM, REFERENCE, TWIN

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
    "cpu_to_litellm": (SIXTEEN, "cpu_ms", INSULA, LITELLM),
    "requests_to_reference": (SIXTEEN, "requests_per_s", INSULA, REFERENCE),
    "requests_to_litellm": (SIXTEEN, "requests_per_s", INSULA, LITELLM),
    "added_p50_to_reference": (ONE, "added_p50_ms", INSULA, REFERENCE),
    "added_p50_of_litellm_to_reference": (ONE, "added_p50_ms", LITELLM, REFERENCE),
    "added_p50_to_litellm": (ONE, "added_p50_ms", INSULA, LITELLM),
    "cpu_one_connection_to_reference": (ONE, "cpu_ms", INSULA, REFERENCE),
    "fast_events_to_direct": (FAST, "events_per_s", INSULA, DIRECT),
    "fast_events_to_litellm": (FAST, "events_per_s", INSULA, LITELLM),
    "fast_event_cpu_to_reference": (FAST, "cpu_us_per_event", INSULA, REFERENCE),
    "paced_event_cpu_to_reference": (PACED, "cpu_us_per_event", INSULA, REFERENCE),
    "paced_gap_p99_to_direct": (PACED, "gap_p99_ms", INSULA, DIRECT),
    "pair_cpu": (SIXTEEN, "cpu_ms", TWIN, REFERENCE),
    "pair_requests": (SIXTEEN, "requests_per_s", TWIN, REFERENCE),
}
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
        name: _ratio(
            _rounds(samples, metric, lambda row, c=cell, t=above: _is(row, c.name, t)),
            _rounds(samples, metric, lambda row, c=cell, t=below: _is(row, c.name, t)),
        )
        for name, (cell, metric, above, below) in RATIOS.items()
    }
    for name, (above, below) in START_RATIOS.items():
        found[name] = _ratio(
            _rounds(timed, "seconds", lambda row, kind=above: row["kind"] == kind),
            _rounds(timed, "seconds", lambda row, kind=below: row["kind"] == kind),
        )
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
        base = direct[row["cell"], row["round"]]
        row["added_p50_ms"] = row["p50_ms"] - base["p50_ms"]
        row["added_first_ms"] = row["first_p50_ms"] - base["first_p50_ms"]


def _medians(rows: list[Sample], target: str) -> dict[str, float | None]:
    mine = [row for row in rows if row["target"] == target]
    medians = {metric: _median(row[metric] for row in mine) for metric in METRICS}
    return medians | {"failed": sum(row["failed"] for row in mine)}


def _is(row: Sample, cell: str, target: str) -> bool:
    return row["cell"] == cell and row["target"] == target


def _rounds(
    rows: list[dict[str, Any]], metric: str, chosen: Callable[[dict[str, Any]], bool]
) -> dict[int, float]:
    return {row["round"]: row[metric] for row in rows if chosen(row)}


def _ratio(above: dict[int, float], below: dict[int, float]) -> float | None:
    return _median(above[number] / below[number] for number in above if below.get(number))


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 5) if known else None
