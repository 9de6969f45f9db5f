"""Vectors that keep their neighbours roughly and their coordinates not at all.

Scale-and-perturb without the scale, after Fuchsbauer, Ghosal, Hauke and O'Neill (SCN 2022):
subtract the model's public mean, bring to length 1, rotate by a secret orthogonal matrix, add noise
from a ball of radius beta/4. The README says what a server learns of them all the same.
"""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from insula_vault.errors import NumpyMissing, VectorRefused
from insula_vault.keys import hkdf

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Vectors: TypeAlias = NDArray[np.float32]
    Floats: TypeAlias = NDArray[np.float64]

BETA_MIN: Final = 1.0
BETA_MAX: Final = 16.0
BETA_DEFAULT: Final = 2.0
DIMENSION_MAX: Final = 4096
NONCE_BYTES: Final = 12
# Shorter than this after centring, a vector has no direction that could be told from rounding.
LENGTH_MIN: Final = 1e-6


class Dcpe:
    """Encrypts vectors of one model under one key. Queries are encrypted as vectors are.

    ``mean`` is the mean of the model's vectors, the same for all who use the model; its length is
    the dimension. All devices of a collection must have the same one.
    """

    def __init__(
        self,
        collection_key: bytes,
        *,
        model: str,
        mean: "ArrayLike",
        beta: float = BETA_DEFAULT,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """``entropy`` gives the nonces of the noise; anything but ``os.urandom`` is for tests."""
        if not BETA_MIN <= beta <= BETA_MAX:
            raise VectorRefused(
                f"beta is {BETA_MIN} to {BETA_MAX}: with less, a server reads the vectors."
            )
        self._mean = vectors_of(mean)[0]
        self.dimension = len(self._mean)
        if not 2 <= self.dimension <= DIMENSION_MAX:
            raise VectorRefused(f"A vector has 2 to {DIMENSION_MAX} numbers.")
        self.beta = beta
        self._entropy = entropy
        self._noise_key = hkdf(collection_key, "noise", model, str(self.dimension))
        rotation_key = hkdf(collection_key, "rot", model, str(self.dimension))
        # In single precision, as its products are sent: half of the memory to read.
        self._rotation = rotation(rotation_key, self.dimension).astype("<f4")

    def encrypt(self, vectors: "ArrayLike") -> "Vectors":
        """``(n, dimension)``, or one vector, to ``(n, dimension)`` in float32; fresh noise each.

        VectorRefused for another dimension, NaN, infinity, or a vector that is the mean.
        """
        np = load_numpy()
        unit = centred(vectors_of(vectors, self.dimension), self._mean)
        # Products of rows, for one query after another: a matrix product would wake threads.
        encrypted: Vectors = np.vecdot(self._rotation, unit.astype("<f4")[:, None])
        encrypted += self._noise(len(unit))
        return encrypted

    def _noise(self, count: int) -> "Floats":
        """Uniform in the ball of radius beta/4: a direction, and a radius by the d-th root."""
        words = 2 * ((self.dimension + 1) // 2) + 1
        stream = b"".join(
            _keystream(self._noise_key, self._entropy(NONCE_BYTES), 8 * words) for _ in range(count)
        )
        uniform = _uniform(stream).reshape(count, words)
        noise: Floats = _gaussian(uniform[:, 1:])[:, : self.dimension]
        radius = self.beta / 4 * uniform[:, 0] ** (1 / self.dimension)
        noise *= (radius / lengths(noise))[:, None]
        return noise


def rotation(key: bytes, dimension: int) -> "Floats":
    """The orthogonal matrix of a key, uniform among all of them (Mezzadri 2007).

    Without the signs a QR decomposition is not unique, and its Q not uniform. Two machines may
    differ in the last bits, which is far below the noise.
    """
    np = load_numpy()
    words = dimension * dimension + dimension * dimension % 2
    stream = _keystream(key, bytes(NONCE_BYTES), 8 * words)
    gaussian = _gaussian(_uniform(stream).reshape(1, words))[0, : dimension * dimension]
    q, r = np.linalg.qr(gaussian.reshape(dimension, dimension))
    matrix: Floats = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return matrix


def centred(vectors: "Vectors", mean: "Vectors") -> "Floats":
    """Directions from the mean, of length 1, in float64."""
    np = load_numpy()
    apart: Floats = np.subtract(vectors, mean, dtype=np.float64)
    length = lengths(apart)
    if not bool((length > LENGTH_MIN).all()):
        raise VectorRefused("A vector is the mean itself: it has no direction.")
    apart /= length[:, None]
    return apart


def lengths(rows: "Floats") -> "Floats":
    """Euclidean, of each row."""
    np = load_numpy()
    found: Floats = np.sqrt(np.vecdot(rows, rows))
    return found


def cosines(query: "Vectors", vectors: "Vectors") -> "Floats":
    """The exact cosine of ``query`` with each row."""
    np = load_numpy()
    wide, one = vectors.astype(np.float64), query.astype(np.float64)
    both = lengths(wide) * lengths(one)
    scores: Floats = np.vecdot(wide, one) / np.maximum(both, LENGTH_MIN)
    return scores


def vectors_of(given: "ArrayLike", dimension: int | None = None) -> "Vectors":
    """One vector or rows of them, checked, as ``(n, dimension)`` of little-endian float32."""
    np = load_numpy()
    try:
        rows: Vectors = np.atleast_2d(np.asarray(given, dtype="<f4"))
    except (TypeError, ValueError):
        raise VectorRefused("A vector is a row of numbers.") from None
    if rows.ndim != 2 or (dimension is not None and rows.shape[1] != dimension):
        raise VectorRefused(f"Vectors here have {dimension} numbers, not {rows.shape[-1]}.")
    if not bool(np.isfinite(rows).all()):
        raise VectorRefused("A vector has a NaN or an infinite number.")
    return rows


def vectors_from(rows: Sequence[bytes]) -> "Vectors":
    """Rows of one dimension, each as bytes, to ``(n, dimension)`` of little-endian float32."""
    found: Vectors = load_numpy().frombuffer(b"".join(rows), dtype="<f4")
    return found.reshape(len(rows), -1)


def load_numpy() -> Any:
    """numpy, for those who use vectors: others need not install it."""
    try:
        return import_module("numpy")
    except ImportError:
        raise NumpyMissing("Vectors need numpy: install `insula-vault[vectors]`.") from None


def _keystream(key: bytes, nonce: bytes, size: int) -> bytes:
    """ChaCha20 from block 0."""
    cipher = Cipher(algorithms.ChaCha20(key, bytes(4) + nonce), mode=None)
    return cipher.encryptor().update(bytes(size))


def _uniform(stream: bytes) -> "Floats":
    """Eight bytes to a number above 0 and up to 1, of which the logarithm can be taken."""
    np = load_numpy()
    whole = np.frombuffer(stream, dtype="<u8") >> np.uint64(11)
    numbers: Floats = (whole + 1.0) * 2.0**-53
    return numbers


def _gaussian(uniform: "Floats") -> "Floats":
    """Box and Muller: rows of pairs of uniform numbers to rows of normal ones."""
    np = load_numpy()
    radius = np.sqrt(-2.0 * np.log(uniform[:, 0::2]))
    angle = 2.0 * np.pi * uniform[:, 1::2]
    normal: Floats = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normal
