"""One secret, split; one root key, wrapped."""

import base64
import pickle

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from insula_vault import (
    Derivation,
    DerivationRefused,
    IntegrityError,
    RootKey,
    SecretRefused,
    SplitKeys,
    split,
)
from insula_vault.keys import hkdf
from tests.vault.vectors import cases

SALT = bytes(range(16))
PRELOGIN = {
    "salt": base64.b64encode(SALT).decode(),
    "kdf": "argon2id",
    "memory_kib": 65_536,
    "iterations": 3,
    "parallelism": 1,
}


class TestHkdf:
    def test_the_librarys_agrees_with_every_wycheproof_vector(self):
        tested = [case for case in cases("hkdf_sha256") if case[1]["result"] == "valid"]

        wrong = []
        for _, test in tested:
            key, salt, info = (bytes.fromhex(test[name]) for name in ("ikm", "salt", "info"))
            made = HKDF(SHA256(), test["size"], salt, info).derive(key)
            if made.hex() != test["okm"]:
                wrong.append(test["tcId"])

        assert len(tested) == 83
        assert wrong == []

    def test_parts_of_the_info_cannot_run_into_each_other(self):
        assert hkdf(bytes(32), "ab", "c") != hkdf(bytes(32), "a", "bc")


class TestSplit:
    def test_gives_for_ever_what_it_gave_first(self):
        keys = split("correct horse battery", Derivation(SALT))

        assert (
            keys.auth_key.hex()
            == "82b500d42f909cfac062f9fc5ab653c4c849d24dc1f201157dbb73351ea50151"
        )
        assert (
            keys.enc_key.hex() == "2271a5741d56e8fc43a5de84cab5e3abe58a59966db4cb379b5d5fa324f75aca"
        )

    def test_shows_no_key(self):
        assert repr(SplitKeys(b"a" * 32, b"b" * 32)) == "SplitKeys()"

    def test_takes_a_secret_in_any_unicode_form(self):
        composed = split("caf\u00e9 au lait", Derivation(SALT))

        assert split("cafe\u0301 au lait", Derivation(SALT)) == composed

    @pytest.mark.parametrize("secret", ["short", "x" * 1025, "half \ud800 a pair"])
    def test_refuses_what_is_no_secret(self, secret):
        with pytest.raises(SecretRefused):
            split(secret, Derivation(SALT))


class TestDerivation:
    def test_is_read_from_prelogin(self):
        assert Derivation.of(PRELOGIN) == Derivation(SALT, 65_536, 3, 1)

    @pytest.mark.parametrize(
        "change",
        [
            {"memory_kib": 19_456},
            {"memory_kib": 8_000_000},
            {"memory_kib": "65536"},
            {"memory_kib": True},
            {"iterations": 2},
            {"iterations": 10_000},
            {"parallelism": 0},
            {"parallelism": None},
            {"kdf": "pbkdf2"},
            {"kdf": None},
            {"salt": ""},
            {"salt": "AAAA"},
            {"salt": None},
            {"salt": "A" * 400},
        ],
    )
    def test_a_server_cannot_ask_for_a_cheap_or_a_ruinous_one(self, change):
        with pytest.raises(DerivationRefused):
            Derivation.of(PRELOGIN | change)


class TestRootKey:
    def test_is_unwrapped_with_the_key_it_was_wrapped_with(self):
        root, enc_key = RootKey.new(), bytes(range(32))

        assert RootKey.unwrap(root.wrap(enc_key), enc_key).reveal() == root.reveal()

    @pytest.mark.parametrize("keyring", ["", "####", "AAAA", RootKey.new().wrap(bytes(32))])
    def test_another_keyring_is_refused(self, keyring):
        with pytest.raises(IntegrityError):
            RootKey.unwrap(keyring, bytes(range(32)))

    def test_each_purpose_has_a_key_of_its_own(self):
        root = RootKey.new()
        keys = [root.derive("a"), root.derive("b"), root.derive("a", "b"), root.derive("a", "c")]

        assert len(set(keys)) == 4

    def test_ids_are_the_same_on_every_device_and_nobody_elses(self):
        root, other = RootKey(bytes(32)), RootKey.new()

        assert root.id_for("head") == RootKey(bytes(32)).id_for("head")
        assert root.id_for("head") != other.id_for("head")

    def test_tags_compare_within_one_name_only(self):
        root = RootKey.new()

        assert root.tag("notes", "from", "anna") == root.tag("notes", "from", "anna")
        assert root.tag("notes", "from", "anna") != root.tag("notes", "to", "anna")
        assert root.tag("notes", "from", "anna") != root.tag("mail", "from", "anna")

    def test_is_not_shown_and_not_pickled(self):
        root = RootKey(b"k" * 32)

        assert "kkk" not in repr(root)
        with pytest.raises(TypeError):
            pickle.dumps(root)

    def test_has_32_bytes(self):
        with pytest.raises(ValueError, match="32 bytes"):
            RootKey(bytes(16))
