"""Decisions of auth."""

import base64
import string
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kernel.db import uuid7
from app.modules.auth import domain
from app.modules.auth.domain import (
    ACCOUNT_ALLOWANCE,
    Allowance,
    AuthKeyRefused,
    Claims,
    CredentialUnclear,
    MailRefused,
    PasswordRefused,
    RefreshStep,
    Strikes,
)

NOW = datetime(2100, 1, 1, tzinfo=UTC)
KEY = domain.format_key(bytes(range(8)), bytes(range(32)))


class TestNormalMail:
    @pytest.mark.parametrize(
        ("typed", "stored"),
        [
            ("Anna@Example.ORG", "anna@example.org"),
            ("STRASSE@x", "strasse@x"),
            ("straße@x", "strasse@x"),
            ("u\u0308ber@x", "\u00fcber@x"),
            ("\u00dcBER@x", "\u00fcber@x"),
            ("owner@localhost", "owner@localhost"),
        ],
    )
    def test_one_address_has_one_form(self, typed, stored):
        assert domain.normal_mail(typed) == stored

    @pytest.mark.parametrize(
        "typed",
        ["", "anna", "@x", "anna@", "a b@x", "a@b@c", "a@x\n", "a\x00@x", "a@x\u202e", "\ud800@x"],
    )
    def test_refuses_what_is_no_address(self, typed):
        with pytest.raises(MailRefused):
            domain.normal_mail(typed)

    def test_refuses_more_than_254_characters(self):
        with pytest.raises(MailRefused):
            domain.normal_mail("a" * 250 + "@x.yz")

    @settings(deadline=None)
    @given(st.text(max_size=40))
    def test_writing_it_twice_changes_nothing(self, typed):
        try:
            once = domain.normal_mail(f"{typed}@x")
        except MailRefused:
            return

        assert domain.normal_mail(once) == once


class TestCredentials:
    def test_a_password_is_the_same_however_it_was_composed(self):
        assert domain.password_bytes("u\u0308bergang") == domain.password_bytes("\u00fcbergang")

    @pytest.mark.parametrize("length", [8, 1024])
    def test_takes_8_to_1024_bytes(self, length):
        assert len(domain.password_bytes("x" * length)) == length

    @pytest.mark.parametrize("text", ["", "x" * 7, "x" * 1025, "ü" * 513, "\ud800" * 9])
    def test_refuses_any_other_password(self, text):
        with pytest.raises(PasswordRefused):
            domain.password_bytes(text)

    def test_counts_bytes_and_not_characters(self):
        assert len(domain.password_bytes("üüüü")) == 8

    @pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
    @pytest.mark.parametrize("padding", ["", "="])
    def test_reads_an_auth_key_in_either_alphabet(self, encode, padding):
        raw = bytes(range(224, 256))

        text = encode(raw).decode().rstrip("=") + padding

        assert domain.auth_key_bytes(text) == raw

    @pytest.mark.parametrize("text", ["", "x", "AAAA", "!" * 44, "A" * 41, "A" * 128, "ü" * 44])
    def test_refuses_any_other_auth_key(self, text):
        with pytest.raises(AuthKeyRefused):
            domain.auth_key_bytes(text)

    @pytest.mark.parametrize(("password", "auth_key"), [(None, None), ("x" * 8, "A" * 43)])
    def test_wants_exactly_one_of_the_two(self, password, auth_key):
        with pytest.raises(CredentialUnclear):
            domain.credential_of(password, auth_key)

    def test_reads_a_text_as_the_kind_of_the_account(self):
        assert domain.credential_as("password", "A" * 43).secret == b"A" * 43
        assert domain.credential_as("auth_key", "A" * 43).secret == bytes(32)


class TestApiKeys:
    def test_has_the_documented_form(self):
        prefix, public_id, secret, checksum = KEY.split("_")

        assert prefix == "isk"
        assert (len(public_id), len(secret), len(checksum)) == (11, 43, 6)
        assert set(public_id + secret + checksum) <= set(string.ascii_letters + string.digits)
        assert domain.public_id_of(KEY) == public_id

    @settings(deadline=None)
    @given(st.binary(min_size=8, max_size=8), st.binary(min_size=32, max_size=32))
    def test_every_key_is_well_formed(self, public, secret):
        assert domain.is_well_formed_key(domain.format_key(public, secret))

    @pytest.mark.parametrize("position", range(len(KEY)))
    def test_one_wrong_character_is_noticed(self, position):
        wrong = "0" if KEY[position] != "0" else "1"

        assert not domain.is_well_formed_key(KEY[:position] + wrong + KEY[position + 1 :])

    @pytest.mark.parametrize("text", ["", "isk_", KEY + "x", KEY[:-1], KEY + "\n", KEY.upper()])
    def test_any_other_text_is_not_well_formed(self, text):
        assert not domain.is_well_formed_key(text)

    def test_different_secrets_make_different_keys(self):
        keys = {domain.format_key(bytes(8), bytes(31) + bytes([n])) for n in range(256)}

        assert len(keys) == 256


class TestBootstrapFlaw:
    @pytest.mark.parametrize(
        "key", ["x" * 32, "x" * 1024, "sk-any_thing/that+is=visible!!!!!!", KEY]
    )
    def test_takes_any_visible_text_of_32_characters(self, key):
        assert domain.bootstrap_flaw(key) is None

    @pytest.mark.parametrize(
        "key",
        ["", "x" * 31, "x" * 1025, "ü" * 32, "x" * 16 + " " + "x" * 16, "x" * 32 + "\n"],
    )
    def test_refuses_what_cannot_travel_in_a_header(self, key):
        assert domain.bootstrap_flaw(key)

    @pytest.mark.parametrize("key", ["eyJ" + "x" * 40, "isk_" + "x" * 40, KEY[:-1] + "?"])
    def test_refuses_what_would_be_read_as_another_token(self, key):
        assert domain.bootstrap_flaw(key)


class TestScopesOutOfReach:
    @pytest.mark.parametrize(
        ("wanted", "held", "is_owner", "missing"),
        [
            ({"full", "read", "inference", "metrics"}, {"full"}, True, []),
            ({"full", "read", "inference"}, {"full"}, False, []),
            ({"metrics"}, {"full"}, False, ["metrics"]),
            ({"metrics"}, {"full", "metrics"}, False, ["metrics"]),
            ({"full"}, {"read", "inference"}, True, ["full"]),
            ({"read", "inference"}, {"read"}, True, ["inference"]),
            ({"read"}, {"read"}, False, []),
        ],
    )
    def test_nobody_hands_on_more_than_they_have(self, wanted, held, is_owner, missing):
        assert domain.scopes_out_of_reach(wanted, held, is_owner=is_owner) == missing


class TestRefreshStep:
    LATER = NOW + timedelta(days=1)

    def test_an_unused_token_rotates(self):
        step = domain.refresh_step(NOW, self.LATER, None, is_successor_used=False)

        assert step is RefreshStep.ROTATE

    @pytest.mark.parametrize("age_s", [-1, 0, 30])
    def test_a_used_one_repeats_for_half_a_minute(self, age_s):
        used_at = NOW - timedelta(seconds=age_s)

        step = domain.refresh_step(NOW, self.LATER, used_at, is_successor_used=False)

        assert step is RefreshStep.REPEAT

    def test_a_used_one_revokes_after_that(self):
        used_at = NOW - timedelta(seconds=30, microseconds=1)

        step = domain.refresh_step(NOW, self.LATER, used_at, is_successor_used=False)

        assert step is RefreshStep.REVOKE

    def test_a_used_one_revokes_once_its_successor_is_used(self):
        step = domain.refresh_step(NOW, self.LATER, NOW, is_successor_used=True)

        assert step is RefreshStep.REVOKE

    @pytest.mark.parametrize("used_at", [None, NOW - timedelta(days=2)])
    def test_an_expired_one_is_refused(self, used_at):
        step = domain.refresh_step(NOW, NOW, used_at, is_successor_used=True)

        assert step is RefreshStep.REFUSE


class TestStrikes:
    ALLOWED = Allowance(free=3, recovery_s=60.0, max_wait_s=20.0)

    def after(self, count: int, at_s: float = 100.0) -> Strikes:
        strikes = Strikes()
        for _ in range(count):
            strikes = strikes.one_more(self.ALLOWED, at_s)
        return strikes

    @pytest.mark.parametrize(
        ("count", "wait_s"), [(0, 0), (2, 0), (3, 1), (4, 2), (5, 4), (7, 16), (8, 20), (500, 20)]
    )
    def test_each_strike_doubles_the_wait_up_to_the_limit(self, count, wait_s):
        assert self.after(count).wait_s(self.ALLOWED, 100.0) == wait_s

    def test_the_wait_passes(self):
        strikes = self.after(5)

        assert strikes.wait_s(self.ALLOWED, 101.0) < strikes.wait_s(self.ALLOWED, 100.0)
        assert strikes.wait_s(self.ALLOWED, 104.0) == 0

    def test_strikes_are_forgotten_one_by_one(self):
        strikes = self.after(5).one_more(self.ALLOWED, 100.0 + 3 * 60)

        assert strikes.count == 3

    def test_one_that_is_taken_back_never_was(self):
        struck = self.after(3).one_more(self.ALLOWED, 100.0)

        assert struck.one_less() == self.after(3)
        assert Strikes().one_less().count == 0

    def test_a_guesser_who_never_rests_gets_about_one_guess_a_minute(self):
        strikes, now_s, guesses = Strikes(), 0.0, 0
        while now_s < 24 * 3600:
            now_s += strikes.wait_s(ACCOUNT_ALLOWANCE, now_s)
            strikes = strikes.one_more(ACCOUNT_ALLOWANCE, now_s)
            guesses += 1

        assert guesses < 24 * 60 + 20


class TestBuckets:
    HOME, ELSEWHERE = "93.184.216.0/24", "8.8.8.0/24"

    def keys(self, prefix: str, *, was_here: bool) -> set[str]:
        return {b.key for b in domain.login_buckets("a@x", prefix, was_here=was_here)}

    def test_guesses_from_elsewhere_do_not_count_at_home(self):
        home = self.keys(self.HOME, was_here=True)

        assert not home & self.keys(self.ELSEWHERE, was_here=False)

    def test_guesses_from_different_networks_count_together(self):
        shared = self.keys(self.HOME, was_here=False) & self.keys(self.ELSEWHERE, was_here=False)

        assert len(shared) == 1

    @pytest.mark.parametrize("prefix", ["127.0.0.0/24", "10.0.0.0/24", "fd00::/64", "unknown"])
    def test_a_private_network_may_be_a_proxy_and_is_not_counted(self, prefix):
        assert domain.network_buckets(prefix) == ()
        assert self.keys(prefix, was_here=True) == self.keys(self.HOME, was_here=False) - {
            f"network {self.HOME}"
        }


class TestPreloginSalt:
    def test_is_the_same_for_ever(self):
        assert domain.prelogin_salt(b"k" * 32, "a@x") == domain.prelogin_salt(b"k" * 32, "a@x")

    def test_differs_by_address_and_by_key(self):
        salts = {domain.prelogin_salt(key, mail) for key in (b"k", b"l") for mail in ("a@x", "b@x")}

        assert len(salts) == 4

    def test_is_16_bytes_of_base64(self):
        assert len(base64.b64decode(domain.prelogin_salt(b"k", "a@x"), validate=True)) == 16


class TestIpPrefix:
    @pytest.mark.parametrize(
        ("host", "prefix"),
        [
            ("93.184.216.34", "93.184.216.0/24"),
            ("::ffff:93.184.216.34", "93.184.216.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("testclient", "unknown"),
            ("", "unknown"),
            (None, "unknown"),
            ("/run/insula.sock", "unknown"),
        ],
    )
    def test_is_the_network_that_one_customer_has(self, host, prefix):
        assert domain.ip_prefix(host) == prefix


class TestIsLoopback:
    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST.", "a.localhost"]
    )
    def test_this_machine(self, host):
        assert domain.is_loopback(host)

    @pytest.mark.parametrize(
        "host",
        ["", "0.0.0.0", "127.evil.example", "localhost.evil.example", "evil-localhost", "10.0.0.1"],
    )
    def test_any_other(self, host):
        assert not domain.is_loopback(host)

    def test_ipv4_in_ipv6(self):
        assert domain.is_loopback("::ffff:127.0.0.1")


class TestIsForeignPage:
    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("", ""),
            ("", "127.0.0.1:8000"),
            ("", "localhost:8000"),
            ("", "[::1]:8000"),
            ("http://localhost:1420", "localhost:8000"),
            ("http://tauri.localhost", "127.0.0.1:8000"),
            ("app://insula", "localhost:8000"),
        ],
    )
    def test_programs_and_pages_of_this_machine_are_not(self, origin, host):
        assert not domain.is_foreign_page(origin, host)

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("https://evil.example", "localhost:8000"),
            ("http://localhost.evil.example", "localhost:8000"),
            ("http://127.0.0.1.evil.example", "localhost:8000"),
            ("null", "localhost:8000"),
            ("", "rebound.evil.example:8000"),
            ("", "127.0.0.1.evil.example"),
            ("http://rebound.evil.example", "rebound.evil.example"),
            ("http://[::1", "localhost"),
            ("", "[::1"),
            ("", ":8000"),
        ],
    )
    def test_pages_from_elsewhere_are(self, origin, host):
        assert domain.is_foreign_page(origin, host)


class TestClaims:
    def test_are_valid_from_their_start_up_to_their_end(self):
        start = int(NOW.timestamp())
        claims = Claims(uuid7(), uuid7(), 1, start, start + 600, "j")

        assert not claims.is_valid_at(NOW - timedelta(seconds=1))
        assert claims.is_valid_at(NOW)
        assert claims.is_valid_at(NOW + timedelta(seconds=599))
        assert not claims.is_valid_at(NOW + timedelta(seconds=600))
