"""A corpus of unit vectors as text encoders make them, from a seed.

Topics, and in them subtopics of very different sizes (Zipf), and items that lie close to their
subtopic or far from it. A query's tenth neighbour has a cosine of 0.53 on average, its fiftieth one
of 0.28, a random pair 0.01.
"""

from functools import cache

import numpy as np

DIMENSION = 384
ITEMS, QUERIES = 4000, 200
TOPICS, SUBTOPICS = 40, 200


@cache
def corpus() -> tuple[np.ndarray, np.ndarray]:
    """Items and queries, which are of the same kind."""
    random = np.random.default_rng(7)

    def directions(count: int) -> np.ndarray:
        return random.standard_normal((count, DIMENSION)) / np.sqrt(DIMENSION)

    topic = directions(TOPICS)[random.integers(0, TOPICS, SUBTOPICS)]
    subtopic = 0.5 * topic + 0.9 * directions(SUBTOPICS)
    weight = 1 / (np.arange(SUBTOPICS) + 8)
    which = random.choice(SUBTOPICS, ITEMS + QUERIES, p=weight / weight.sum())
    spread = random.uniform(0.4, 1.5, (ITEMS + QUERIES, 1))
    rows = unit(subtopic[which] + spread * directions(ITEMS + QUERIES))
    return rows[:ITEMS], rows[ITEMS:]


def anisotropic(rows: np.ndarray) -> np.ndarray:
    """The same with a common component, as many encoders have: pairs have a cosine of 0.7."""
    common = np.random.default_rng(8).standard_normal(DIMENSION)
    return unit(rows + 1.53 * common / np.linalg.norm(common))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f4")


def nearest(scores: np.ndarray, count: int) -> np.ndarray:
    """The columns of the best scores of each row."""
    return np.argpartition(-scores, count, axis=1)[:, :count]


def by_distance(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Scores as the server has them: the smaller the distance, the higher."""
    return 2 * queries @ items.T - (items * items).sum(axis=1)


def recall(exact: np.ndarray, found: np.ndarray) -> float:
    """Which part of the exact neighbours is among those found. A re-rank loses none of them."""
    hits = [len(set(a) & set(b)) for a, b in zip(exact, found, strict=True)]
    return sum(hits) / exact.size
