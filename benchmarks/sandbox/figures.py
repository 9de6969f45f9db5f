"""From samples to figures: medians over rounds, ratios inside a round."""

import statistics
from collections.abc import Iterable
from typing import Any, Final

from benchmarks.sandbox.measure import (
    CLIENTS,
    COLD,
    DOCKER,
    DOCKER_HAND,
    HTTP,
    HTTP_READY,
    LOOPS,
    PANDAS,
    PANDAS_HAND,
    PASS,
    PASS_TWIN,
    PRINT,
    RATE,
    WARM,
    Sample,
)

BEST = f"{RATE}-best"
RATIOS: Final = {
    "warm_to_hand": (WARM, PASS),
    "http_to_hand": (HTTP, PRINT),
    "http_ready_to_hand": (HTTP_READY, PRINT),
    "cold_to_hand": (COLD, PRINT),
    "pandas_to_hand": (PANDAS, PANDAS_HAND),
    "rate_to_loops": (BEST, LOOPS),
    "docker_to_hand": (DOCKER, DOCKER_HAND),
    "pair": (PASS_TWIN, PASS),
}

Rounds = dict[int, float]


def summarise(samples: list[Sample]) -> dict[str, Any]:
    """What the page is made of."""
    return {
        "cells": _cells(samples),
        "ratios": ratios(samples),
        "best_clients": best_clients(samples),
        "noise": _noise(samples),
    }


def ratios(samples: list[Sample]) -> dict[str, float]:
    """Medians over the rounds of one figure divided by another of the same round."""
    found = {}
    for name, (above, below) in RATIOS.items():
        upper, lower = (_by_round(samples, _named(samples, cell)) for cell in (above, below))
        shared = upper.keys() & lower.keys()
        if shared:
            found[name] = _rounded(statistics.median(upper[n] / lower[n] for n in shared))
    return found


def best_clients(samples: list[Sample]) -> int:
    """With how many clients most scripts were answered."""
    return max(CLIENTS, key=lambda n: _median(_by_round(samples, f"{RATE}-{n}").values()))


def _named(samples: list[Sample], cell: str) -> str:
    return f"{RATE}-{best_clients(samples)}" if cell == BEST else cell


def _by_round(samples: list[Sample], cell: str) -> Rounds:
    mine = (sample for sample in samples if sample["cell"] == cell)
    return {sample["round"]: statistics.median(sample["shots"]) for sample in mine}


def _cells(samples: list[Sample]) -> dict[str, dict[str, float]]:
    found = {}
    for name in sorted({sample["cell"] for sample in samples}):
        rounds = list(_by_round(samples, name).values())
        if name == LOOPS or name.startswith(RATE):
            found[name] = {"per_s": _rounded(_median(rounds))}
            continue
        shots = sorted(x for sample in samples if sample["cell"] == name for x in sample["shots"])
        found[name] = {
            "median_ms": _rounded(_median(rounds) * 1e3),
            "least_ms": _rounded(shots[0] * 1e3),
            "p95_ms": _rounded(shots[int(0.95 * (len(shots) - 1))] * 1e3),
        }
    return found


def _noise(samples: list[Sample]) -> dict[str, float]:
    cores = {sample["round"]: sample["foreign_cores"] for sample in samples}
    return {
        "foreign_cores": _rounded(_median(cores.values())),
        "most": _rounded(max(cores.values())),
    }


def _median(values: Iterable[float]) -> float:
    return statistics.median(list(values) or [0.0])


def _rounded(value: float) -> float:
    return round(value, 5)
