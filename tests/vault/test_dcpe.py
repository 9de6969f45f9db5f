"""DCPE: how much it finds, how much it hides, and what it does not."""

import hashlib
import itertools
import sys
from functools import cache

import numpy as np
import pytest

from insula_vault import Dcpe, NumpyMissing, VectorRefused
from insula_vault.dcpe import BETA_DEFAULT, cosines, load_numpy, rotation
from tests.vault.corpus import (
    DIMENSION,
    anisotropic,
    by_distance,
    corpus,
    nearest,
    recall,
    unit,
)

KEY = bytes(range(32))
TOP_K, OVERFETCH = 10, 50
FLOOR, RAW_FLOOR = 0.98, 0.70
KNOWN_PAIRS = 100


def cipher(mean: np.ndarray, beta: float = BETA_DEFAULT) -> Dcpe:
    """The noise is drawn from a counter, so that every run has the same."""
    counter = itertools.count()
    return Dcpe(
        KEY,
        model="m",
        mean=mean,
        beta=beta,
        entropy=lambda size: next(counter).to_bytes(size, "big"),
    )


@cache
def encrypted() -> tuple[np.ndarray, np.ndarray]:
    """Items and queries of the corpus as the server has them."""
    items, queries = corpus()
    both = cipher(items.mean(axis=0))
    return both.encrypt(items), both.encrypt(queries)


def recalls(items: np.ndarray, queries: np.ndarray, encrypt) -> tuple[float, float]:
    """As ``measured``, of both encrypted the same way."""
    return measured(items, queries, encrypt(items), encrypt(queries))


def measured(
    items: np.ndarray, queries: np.ndarray, sealed_items: np.ndarray, sealed_queries: np.ndarray
) -> tuple[float, float]:
    """Recall at 10 as the server ranks, and after the device has ranked 50 again."""
    exact = nearest(queries @ items.T, TOP_K)
    scores = by_distance(sealed_queries, sealed_items)
    return (
        recall(exact, nearest(scores, TOP_K)),
        recall(exact, nearest(scores, OVERFETCH)),
    )


def digest_encoder(rows: np.ndarray) -> np.ndarray:
    """32 numbers made of a SHA-256, which is what this is not."""
    digests = [hashlib.sha256(row.tobytes()).digest() for row in rows]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32).astype("<f4")


def mean_cosine(rows: np.ndarray, others: np.ndarray) -> float:
    return float((unit(rows) * unit(others)).sum(axis=1).mean())


class TestRecall:
    def test_is_above_the_floor(self):
        """V1."""
        items, queries = corpus()

        raw, ranked = measured(items, queries, *encrypted())

        assert raw >= RAW_FLOOR
        assert ranked >= FLOOR

    def test_of_an_encoder_by_digest_is_chance(self):
        """V1: the floor is one that such an encoder cannot reach."""
        items, queries = corpus()

        _, ranked = recalls(items, queries, digest_encoder)

        assert ranked < 3 * OVERFETCH / len(items)

    def test_of_vectors_with_a_common_component_is_above_the_floor(self):
        """V11."""
        items, queries = (anisotropic(rows) for rows in corpus())

        _, ranked = recalls(items, queries, cipher(items.mean(axis=0)).encrypt)

        assert 0.65 < float((items[:300] @ items[300:600].T).mean()) < 0.75
        assert ranked >= FLOOR

    def test_of_such_vectors_is_below_it_when_they_are_not_centred(self):
        """V11: what the mean is for."""
        items, queries = (anisotropic(rows) for rows in corpus())

        _, ranked = recalls(items, queries, cipher(np.zeros(DIMENSION)).encrypt)

        assert ranked < FLOOR - 0.01

    def test_falls_with_beta_and_rises_with_overfetch(self):
        """V2."""
        items, queries = (rows[:1000] for rows in corpus())
        exact = nearest(queries @ items.T, TOP_K)

        table = []
        for beta in (1.0, 3.0, 8.0):
            encrypt = cipher(items.mean(axis=0), beta).encrypt
            scores = by_distance(encrypt(queries), encrypt(items))
            table.append([recall(exact, nearest(scores, count)) for count in (10, 20, 50, 100)])

        by_beta = np.array(table)
        assert (np.diff(by_beta, axis=0) < 0)[:, 0].all()
        assert (np.diff(by_beta, axis=0) <= 0).all()
        assert (np.diff(by_beta, axis=1) >= 0).all()


def attacked() -> tuple[np.ndarray, np.ndarray]:
    """Directions from the mean, and what the server has of them."""
    items, _ = corpus()
    return unit(items - items.mean(axis=0)), encrypted()[0]


class TestKnownPairs:
    """V9: an attacker knows 100 vectors with their ciphertexts and reads the others."""

    def test_an_orthogonal_fit_recovers_little(self):
        plain, sealed = attacked()

        u, _, vt = np.linalg.svd(sealed[:KNOWN_PAIRS].T @ plain[:KNOWN_PAIRS])
        recovered = sealed[KNOWN_PAIRS:] @ (u @ vt)

        assert mean_cosine(recovered, plain[KNOWN_PAIRS:]) <= 0.35

    def test_a_linear_fit_recovers_what_the_readme_says(self):
        """The better attack of the two: nobody should quote the other one alone."""
        plain, sealed = attacked()

        known = sealed[:KNOWN_PAIRS].astype(np.float64)
        ridge = known.T @ known + 0.5 * np.eye(DIMENSION)
        fit = np.linalg.solve(ridge, known.T @ plain[:KNOWN_PAIRS])
        recovered = sealed[KNOWN_PAIRS:] @ fit

        assert 0.45 <= mean_cosine(recovered, plain[KNOWN_PAIRS:]) <= 0.60

    def test_as_many_pairs_as_dimensions_undo_the_rotation(self):
        plain, sealed = attacked()

        u, _, vt = np.linalg.svd(sealed[:1000].T @ plain[:1000])
        recovered = sealed[1000:] @ (u @ vt)

        assert mean_cosine(recovered, plain[1000:]) >= 0.75

    def test_a_shuffle_would_be_undone(self):
        """Why it is a rotation: the same noise under a permutation of coordinates is read."""
        plain, _ = attacked()
        random = np.random.default_rng(9)
        order = random.permutation(DIMENSION)
        noise = unit(random.standard_normal(plain.shape)) * BETA_DEFAULT / 4
        shuffled = plain[:, order] + noise

        likeness = shuffled[:KNOWN_PAIRS].T @ plain[:KNOWN_PAIRS]
        recovered = np.zeros_like(plain)
        recovered[:, likeness.argmax(axis=1)] = shuffled

        assert mean_cosine(recovered[KNOWN_PAIRS:], plain[KNOWN_PAIRS:]) >= 0.8


class TestEncrypt:
    def test_adds_noise_that_stays_in_its_ball(self):
        rows = unit(np.random.default_rng(1).standard_normal((200, 64)))
        mean = np.zeros(64)

        noise = cipher(mean, 2.0).encrypt(rows) - rows @ rotation_of(mean).T

        lengths = np.linalg.norm(noise, axis=1)
        assert lengths.max() <= 0.5 + 1e-5
        assert 0.48 < lengths.mean() < 0.5

    def test_adds_other_noise_each_time_to_queries_too(self):
        once = Dcpe(KEY, model="m", mean=np.zeros(8))
        row = np.ones(8)

        assert not np.allclose(once.encrypt(row), once.encrypt(row))

    def test_is_float32_little_endian(self):
        encrypted = Dcpe(KEY, model="m", mean=np.zeros(8)).encrypt(np.ones((3, 8)))

        assert (encrypted.dtype.str, encrypted.shape) == ("<f4", (3, 8))

    @pytest.mark.parametrize(
        "rows",
        [
            np.ones(7),
            np.ones((2, 9)),
            np.ones((1, 1, 8)),
            [1, 2, float("nan"), 4, 5, 6, 7, 8],
            [float("inf")] * 8,
            np.zeros(8),
            "words",
            [[1, 2], [3]],
        ],
    )
    def test_refuses_what_is_no_vector_of_the_model(self, rows):
        with pytest.raises(VectorRefused):
            Dcpe(KEY, model="m", mean=np.zeros(8)).encrypt(rows)


class TestDcpe:
    @pytest.mark.parametrize("beta", [0.0, 0.99, 17.0, float("nan"), -1.0])
    def test_refuses_a_beta_that_hides_nothing_or_finds_nothing(self, beta):
        with pytest.raises(VectorRefused, match="beta"):
            Dcpe(KEY, model="m", mean=np.zeros(8), beta=beta)

    @pytest.mark.parametrize("mean", [[0.0], np.zeros(5000), [float("nan"), 0.0]])
    def test_refuses_a_mean_that_is_none(self, mean):
        with pytest.raises(VectorRefused):
            Dcpe(KEY, model="m", mean=mean)

    def test_says_what_is_missing_without_numpy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "numpy", None)

        with pytest.raises(NumpyMissing, match=r"insula-vault\[vectors\]"):
            load_numpy()


class TestRotation:
    def test_keeps_lengths_and_angles(self):
        matrix = rotation(KEY, 64)

        assert np.allclose(matrix @ matrix.T, np.eye(64))

    def test_is_the_same_on_every_device(self):
        assert np.array_equal(rotation(KEY, 16), rotation(KEY, 16))
        assert np.allclose(rotation(KEY, 5), GOLDEN, atol=1e-9)

    def test_is_another_one_for_each_key(self):
        assert not np.allclose(rotation(KEY, 16), rotation(bytes(32), 16))


class TestCosines:
    def test_are_exact(self):
        scores = cosines(np.array([1.0, 0.0]), np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]))

        assert np.allclose(scores, [1.0, 0.0, 0.5**0.5])


def rotation_of(mean: np.ndarray) -> np.ndarray:
    from insula_vault.keys import hkdf

    return rotation(hkdf(KEY, "rot", "m", str(len(mean))), len(mean))


GOLDEN = [
    [-0.127399369675, -0.617410578507, -0.398548042043, 0.568585491705, 0.347049816252],
    [-0.389821487606, 0.032823323359, 0.697498609476, 0.073506154574, 0.595864390833],
    [-0.839917288731, 0.08670356419, -0.060888439555, 0.170948158808, -0.504074166146],
    [0.238079226525, 0.592985723831, 0.06066916487, 0.765643242539, -0.042377952042],
    [-0.263942869566, 0.508504897008, -0.589293643547, -0.236377951632, 0.518281194894],
]
