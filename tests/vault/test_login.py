"""Signing in to a real house, which learns a key and never the secret."""

import base64
from collections.abc import Callable

import httpx
import pytest

from insula_vault import (
    Derivation,
    DerivationRefused,
    IntegrityError,
    Refused,
    RootKey,
    Vault,
    change_secret,
    login,
    register,
    split,
)
from tests.vault.in_process import BASE, InProcess

SECRET, OTHER = "correct horse battery", "another horse battery"
EMAIL, LONER = "anna@example.org", "loner@example.org"
PRELOGIN = {
    "salt": base64.b64encode(bytes(16)).decode(),
    "kdf": "argon2id",
    "memory_kib": 65_536,
    "iterations": 3,
    "parallelism": 1,
}


@pytest.fixture(scope="module")
def anna(house: InProcess) -> Vault:
    """Somebody who has an account. Deriving keys is slow, and so there is one of her."""
    return register(BASE, EMAIL, SECRET, transport=house)


class TestRegister:
    def test_and_login_come_to_the_same_key(self, house, anna):
        found = login(BASE, "Anna@Example.org", SECRET, device_name="phone", transport=house)

        assert found.account.user_id == anna.account.user_id
        assert found.account.root.reveal() == anna.account.root.reveal()

    def test_sends_neither_the_secret_nor_the_root_key(self, house, anna):
        sent, root = b"".join(house.sent), anna.account.root.reveal()

        assert EMAIL.encode() in sent
        assert SECRET.encode() not in sent
        assert base64.b64encode(root) not in sent
        assert root not in sent

    def test_of_an_address_that_is_taken_is_refused(self, house, anna):
        with pytest.raises(Refused, match="409"):
            register(BASE, EMAIL, OTHER, transport=house)


class TestLogin:
    def test_with_another_secret_is_refused(self, house, anna):
        with pytest.raises(Refused, match="401"):
            login(BASE, EMAIL, OTHER, transport=house)

    def test_at_an_account_without_a_keyring_is_refused(self, house):
        salt = base64.b64decode(_post(house, "prelogin", {"email": LONER})["salt"])
        auth_key = base64.b64encode(split(SECRET, Derivation(salt)).auth_key).decode()
        _post(house, "register", {"email": LONER, "auth_key": auth_key})

        with pytest.raises(IntegrityError, match="no keyring"):
            login(BASE, LONER, SECRET, transport=house)

    def test_at_a_server_that_asks_for_a_cheap_derivation_sends_nothing(self):
        asked: list[str] = []
        cheap = PRELOGIN | {"memory_kib": 8, "iterations": 1}
        liar = httpx.MockTransport(_answering({"prelogin": cheap}, asked))

        with pytest.raises(DerivationRefused):
            login("https://vault.test", EMAIL, SECRET, transport=liar)

        assert asked == ["prelogin"]

    def test_at_a_server_that_shows_another_keyring_is_refused(self):
        answers = {
            "prelogin": PRELOGIN,
            "login": {"access_token": "t", "refresh_token": "r"},
            "keyring": {"keyring": RootKey.new().wrap(bytes(32))},
            "me": {"id": "u"},
        }
        liar = httpx.MockTransport(_answering(answers, []))

        with pytest.raises(IntegrityError):
            login("https://vault.test", EMAIL, SECRET, transport=liar)


class TestChangeSecret:
    def test_needs_the_old_one(self, anna):
        with pytest.raises(Refused, match="403"):
            change_secret(anna, EMAIL, OTHER, "a third horse battery")

    def test_keeps_the_root_key_and_ends_the_old_secret(self, house):
        vault = register(BASE, "bert@example.org", SECRET, transport=house)

        change_secret(vault, "bert@example.org", SECRET, OTHER)

        again = login(BASE, "bert@example.org", OTHER, transport=house)
        assert again.account.root.reveal() == vault.account.root.reveal()
        with pytest.raises(Refused, match="401"):
            login(BASE, "bert@example.org", SECRET, transport=house)


def _post(house: InProcess, path: str, body: dict[str, str]) -> dict[str, str]:
    with httpx.Client(transport=house, base_url=BASE) as client:
        return client.post(f"/api/v1/auth/{path}", json=body).json()


def _answering(
    answers: dict[str, object], asked: list[str]
) -> Callable[[httpx.Request], httpx.Response]:
    """A server that answers by the last part of a path, and notes what it was asked."""

    def handle(request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        asked.append(name)
        return httpx.Response(200, json=answers[name])

    return handle
