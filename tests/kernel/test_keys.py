"""Keys: one master secret, and all others derived from it."""

import stat

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.kernel.keys import MIN_SECRET_CHARS, Keyring, hkdf, open_keyring, rotate
from app.kernel.settings import Secret, SettingsError

OLD, NEW = "o" * MIN_SECRET_CHARS, "n" * MIN_SECRET_CHARS


class TestHkdf:
    def test_agrees_with_rfc_5869_where_there_is_no_salt(self):
        """Appendix A.3: SHA-256, no salt, no info, 42 bytes."""
        expected = bytes.fromhex(
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
        )

        assert hkdf(b"\x0b" * 22, "", 42) == expected

    @pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 255 * 32])
    def test_agrees_with_another_implementation(self, length):
        reference = HKDF(SHA256(), length, salt=None, info=b"auth.tokens")

        assert hkdf(OLD.encode(), "auth.tokens", length) == reference.derive(OLD.encode())

    def test_gives_no_more_than_the_standard_allows(self):
        with pytest.raises(ValueError, match="byte"):
            hkdf(OLD.encode(), "auth.tokens", 255 * 32 + 1)


class TestDerive:
    def test_gives_each_label_a_key_of_its_own(self):
        keys = Keyring([OLD])

        assert keys.derive("one") != keys.derive("two")

    def test_gives_the_same_key_after_a_restart(self):
        assert Keyring([OLD]).derive("label") == Keyring([OLD]).derive("label")

    def test_agrees_with_the_standard(self):
        assert Keyring([OLD]).derive("label", length=40) == hkdf(OLD.encode(), "label", 40)

    def test_uses_the_newest_secret(self):
        assert Keyring([NEW, OLD]).derive("label") == Keyring([NEW]).derive("label")

    def test_still_gives_the_keys_of_an_older_secret(self):
        before = Keyring([OLD])

        after = Keyring([NEW, OLD])

        assert after.derive("label", key_id=before.current) == before.derive("label")

    def test_knows_no_key_of_a_secret_that_is_gone(self):
        with pytest.raises(KeyError):
            Keyring([NEW]).derive("label", key_id=Keyring([OLD]).current)


class TestIds:
    def test_lists_the_newest_first(self):
        keys = Keyring([NEW, OLD])

        assert keys.ids == (Keyring([NEW]).current, Keyring([OLD]).current)
        assert keys.current == keys.ids[0]

    def test_tells_nothing_of_the_secret(self):
        assert OLD not in Keyring([OLD]).current


class TestKeyring:
    @pytest.mark.parametrize("masters", [[], ["short"], [NEW, "short"]])
    def test_refuses_to_start_on_too_little(self, masters):
        with pytest.raises(SettingsError, match="32 characters"):
            Keyring(masters)


class TestOpenKeyring:
    def test_makes_a_secret_at_the_first_start(self, tmp_path):
        first = open_keyring(None, tmp_path)

        assert open_keyring(None, tmp_path).derive("label") == first.derive("label")

    def test_makes_another_secret_elsewhere(self, tmp_path):
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()

        one, two = (open_keyring(None, tmp_path / name) for name in ("one", "two"))

        assert one.derive("label") != two.derive("label")

    def test_shows_the_file_to_nobody_else(self, tmp_path):
        open_keyring(None, tmp_path)

        (file,) = tmp_path.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_prefers_the_secret_that_it_is_given(self, tmp_path):
        keys = open_keyring(Secret(f"{NEW}, {OLD},"), tmp_path)

        assert keys.ids == Keyring([NEW, OLD]).ids
        assert list(tmp_path.iterdir()) == []

    def test_refuses_a_secret_of_commas(self, tmp_path):
        with pytest.raises(SettingsError, match="APP_SECRET is empty"):
            open_keyring(Secret(" , "), tmp_path)


class TestRotate:
    def test_writes_with_a_new_secret_and_reads_with_the_old(self, tmp_path):
        before = open_keyring(None, tmp_path)

        rotate(tmp_path)

        after = open_keyring(None, tmp_path)
        assert after.current != before.current
        assert after.ids[1:] == before.ids
        assert after.derive("label", key_id=before.current) == before.derive("label")

    def test_keeps_every_secret_there_ever_was(self, tmp_path):
        seen = [open_keyring(None, tmp_path).current]
        for _ in range(3):
            rotate(tmp_path)
            seen.append(open_keyring(None, tmp_path).current)

        assert open_keyring(None, tmp_path).ids == tuple(reversed(seen))

    def test_shows_the_file_to_nobody_else(self, tmp_path):
        open_keyring(None, tmp_path)

        rotate(tmp_path)

        (file,) = tmp_path.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_starts_over_after_a_crash_half_way(self, tmp_path):
        before = open_keyring(None, tmp_path)
        (tmp_path / "secret.new").write_text("half a sec")

        rotate(tmp_path)

        assert open_keyring(None, tmp_path).ids[1:] == before.ids
