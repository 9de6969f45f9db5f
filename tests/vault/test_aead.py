"""The ciphers, against the vectors of others."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from insula_vault import IntegrityError, XChaCha20Poly1305
from insula_vault.aead import ALGORITHMS, HChaCha20
from tests.vault.vectors import cases


def outcome(cipher, test) -> tuple[bool, bool]:
    """Whether the test's ciphertext opens to its message, and sealing gives its ciphertext."""
    nonce, aad, message = (bytes.fromhex(test[name]) for name in ("iv", "aad", "msg"))
    sealed = bytes.fromhex(test["ct"] + test["tag"])
    try:
        is_open = cipher.decrypt(nonce, sealed, aad) == message
        return is_open, cipher.encrypt(nonce, message, aad) == sealed
    except (InvalidTag, ValueError):
        return False, False


class TestXChaCha20Poly1305:
    def test_agrees_with_every_wycheproof_vector(self):
        tested = cases("xchacha20_poly1305")

        wrong = [
            test["tcId"]
            for _, test in tested
            if outcome(XChaCha20Poly1305(bytes.fromhex(test["key"])), test)
            != (test["result"] == "valid",) * 2
        ]

        assert len(tested) == 315
        assert wrong == []

    def test_refuses_a_nonce_of_another_length(self):
        with pytest.raises(ValueError, match="24 bytes"):
            XChaCha20Poly1305(bytes(32)).encrypt(bytes(12), b"", None)


class TestAesGcmSiv:
    def test_agrees_with_every_wycheproof_vector(self):
        tested = cases("aes_gcm_siv")

        wrong = [
            test["tcId"]
            for _, test in tested
            if outcome(AESGCMSIV(bytes.fromhex(test["key"])), test)
            != (test["result"] == "valid",) * 2
        ]

        assert len(tested) == 202
        assert wrong == []


class TestHChaCha20:
    def test_agrees_with_the_draft(self):
        key = bytes(range(32))
        nonce = bytes.fromhex("000000090000004a0000000031415927")

        assert HChaCha20(key).derive(nonce).hex() == (
            "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
        )

    def test_takes_a_nonce_whose_counter_is_full(self):
        nonce = b"\xff" * 16

        assert len(HChaCha20(os.urandom(32)).derive(nonce)) == 32

    def test_depends_on_nothing_derived_before(self):
        key = os.urandom(32)
        nonces = [os.urandom(16) for _ in range(4)]
        derived = HChaCha20(key)

        assert [derived.derive(nonce) for nonce in nonces] == [
            HChaCha20(key).derive(nonce) for nonce in nonces
        ]

    def test_lends_itself_to_one_thread_at_a_time(self):
        nonces = [os.urandom(16) for _ in range(2000)]
        derived = HChaCha20(bytes(32))
        alone = [derived.derive(nonce) for nonce in nonces]

        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(derived.derive, nonces))

        assert together == alone


class TestAlgorithm:
    @pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=lambda one: one.name)
    @pytest.mark.parametrize("data", [b"", b"x", bytes(70_000)])
    def test_opens_what_it_sealed(self, algorithm, data):
        key, nonce = os.urandom(32), os.urandom(algorithm.nonce_bytes)

        sealed = algorithm.seal(key, nonce, data, b"bound")

        assert algorithm.open(key, nonce, sealed, b"bound") == data
        assert len(sealed) == len(data) + 16

    @pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=lambda one: one.name)
    @pytest.mark.parametrize("size", [0, 1, 15])
    def test_refuses_what_is_shorter_than_a_tag(self, algorithm, size):
        with pytest.raises(IntegrityError):
            algorithm.open(bytes(32), bytes(algorithm.nonce_bytes), bytes(size), b"")
