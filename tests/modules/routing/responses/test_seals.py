"""Sealed texts."""

import pytest

from app.kernel.keys import AesGcmSeal, Keyring

OLD, NEW = "an old master secret, 0123456789abcdef", "a new master secret, 0123456789abcdef"


class TestUnseal:
    @pytest.mark.parametrize("text", [b"", b"hello", bytes(range(256))])
    def test_gives_back_what_was_sealed(self, text):
        seal = AesGcmSeal(Keyring([OLD]), "routing-sealing")

        assert seal.unseal(seal.seal(text, b"here"), b"here") == text

    def test_another_place_does_not_open_it(self):
        seal = AesGcmSeal(Keyring([OLD]), "routing-sealing")

        assert seal.unseal(seal.seal(b"hello", b"here"), b"there") is None

    def test_an_old_secret_still_opens(self):
        sealed = AesGcmSeal(Keyring([OLD]), "routing-sealing").seal(b"hello", b"")

        assert AesGcmSeal(Keyring([NEW, OLD]), "routing-sealing").unseal(sealed, b"") == b"hello"

    def test_a_secret_that_is_gone_does_not(self):
        sealed = AesGcmSeal(Keyring([OLD]), "routing-sealing").seal(b"hello", b"")

        assert AesGcmSeal(Keyring([NEW]), "routing-sealing").unseal(sealed, b"") is None

    def test_one_bit_more_or_less_is_noticed(self):
        seal = AesGcmSeal(Keyring([OLD]), "routing-sealing")
        sealed = seal.seal(b"hello", b"")

        for place in range(len(sealed)):
            changed = bytearray(sealed)
            changed[place] ^= 1
            assert seal.unseal(bytes(changed), b"") is None

    @pytest.mark.parametrize("text", [b"", b":", b"x:y"])
    def test_what_we_did_not_seal_is_none(self, text):
        assert AesGcmSeal(Keyring([OLD]), "routing-sealing").unseal(text, b"") is None


class TestSeal:
    def test_never_gives_the_same_twice(self):
        seal = AesGcmSeal(Keyring([OLD]), "routing-sealing")

        assert seal.seal(b"hello", b"") != seal.seal(b"hello", b"")
