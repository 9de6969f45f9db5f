"""Signing in: a person with two devices, an end-to-end account, a thief, a machine with a key."""

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator

import httpx
import pytest

from app.adapters.cache.memory import MemoryCache
from app.kernel.db import Database
from app.kernel.jobs import JobBook
from app.kernel.keys import Keyring
from tests import tables
from tests.fakes.clock import FakeClock
from tests.modules.auth.people import BOOTSTRAP, SECRET, make_kit, served

ANNA = {"email": "anna@example.org", "password": "correct horse battery"}


class Device:
    """A client as the platform's own: keeps its tokens, refreshes when it is told 401."""

    def __init__(self, client: httpx.AsyncClient, name: str) -> None:
        self._client = client
        self.name = name
        self.tokens: dict = {}

    async def post(self, path: str, body: dict) -> httpx.Response:
        answer = await self._client.post(f"/api/v1/auth/{path}", json=body)
        if answer.status_code == 200:
            self.tokens = answer.json()
        return answer

    async def sign_in(self, path: str = "login", **body: str) -> int:
        return (await self.post(path, {**ANNA, "device_name": self.name, **body})).status_code

    async def refresh(self) -> int:
        body = {"refresh_token": self.tokens["refresh_token"]}
        return (await self.post("refresh", body)).status_code

    async def call(self, method: str, path: str, body: dict | None = None) -> httpx.Response:
        answer = await self._once(method, path, body)
        if answer.status_code == 401 and await self.refresh() == 200:
            answer = await self._once(method, path, body)
        return answer

    async def _once(self, method: str, path: str, body: dict | None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.tokens['access_token']}"}
        url = f"/api/v1/auth/{path}"
        return await self._client.request(method, url, json=body, headers=headers)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def client(sqlite_url: str, clock: FakeClock) -> AsyncIterator[httpx.AsyncClient]:
    db = Database(sqlite_url, JobBook())
    await tables.lay(sqlite_url)
    async with served(make_kit(db, MemoryCache(), Keyring([SECRET]), clock)) as client:
        yield client
    await db.close()


class TestTwoDevices:
    async def test_a_day_of_work_and_a_lost_phone(self, client, clock):
        laptop, phone = Device(client, "laptop"), Device(client, "phone")
        assert await laptop.sign_in("register") == 200
        assert await phone.sign_in() == 200

        for _ in range(6):
            clock.advance(3 * 3600)
            assert (await laptop.call("GET", "me")).json()["email"] == ANNA["email"]
            assert (await phone.call("GET", "me")).status_code == 200

        page = (await laptop.call("GET", "sessions")).json()["items"]
        lost = next(row for row in page if row["device_name"] == "phone")
        assert (await laptop.call("DELETE", f"sessions/{lost['id']}")).status_code == 204
        assert (await phone.call("GET", "me")).status_code == 401
        assert (await laptop.call("GET", "me")).status_code == 200

    async def test_a_new_password_signs_the_other_device_out(self, client):
        laptop, phone = Device(client, "laptop"), Device(client, "phone")
        await laptop.sign_in("register")
        await phone.sign_in()

        change = {"current": ANNA["password"], "new": "a different password"}
        answer = await laptop.call("PUT", "password", change)
        laptop.tokens = answer.json()

        assert (await laptop.call("GET", "me")).status_code == 200
        assert (await phone.call("GET", "me")).status_code == 401
        assert await phone.sign_in() == 401
        assert await phone.sign_in(password="a different password") == 200

    async def test_tabs_that_refresh_at_once_all_stay_signed_in(self, client, clock):
        first = Device(client, "browser")
        await first.sign_in("register")
        tabs = [Device(client, "browser") for _ in range(10)]
        for tab in tabs:
            tab.tokens = first.tokens
        clock.advance(601)

        answers = await asyncio.gather(*(tab.call("GET", "me") for tab in tabs))

        assert {answer.status_code for answer in answers} == {200}
        assert len({tab.tokens["refresh_token"] for tab in tabs}) == 1


class TestThief:
    async def test_a_stolen_refresh_token_signs_both_out_and_not_the_other_device(
        self, client, clock
    ):
        laptop, phone, thief = (Device(client, name) for name in ("laptop", "phone", "thief"))
        await laptop.sign_in("register")
        await phone.sign_in()
        thief.tokens = laptop.tokens
        assert await laptop.refresh() == 200
        clock.advance(60)

        assert await thief.refresh() == 401

        assert (await laptop.call("GET", "me")).status_code == 401
        assert (await thief.call("GET", "me")).status_code == 401
        assert (await phone.call("GET", "me")).status_code == 200
        assert await laptop.sign_in() == 200


class TestEndToEndAccount:
    """The server never sees the password: the client derives ``auth_key`` and wraps its keys."""

    def derive(self, password: str, prelogin: dict) -> str:
        salt = base64.b64decode(prelogin["salt"])
        root = hashlib.scrypt(password.encode(), salt=salt, n=2**10, r=8, p=1)
        return base64.b64encode(hashlib.sha256(root + b"auth").digest()).decode()

    async def test_from_the_first_device_to_the_second_and_a_new_password(self, client):
        first, second = Device(client, "first"), Device(client, "second")
        mail = {"email": ANNA["email"]}
        prelogin = (await client.post("/api/v1/auth/prelogin", json=mail)).json()
        keyring = base64.b64encode(os.urandom(1024)).decode()
        account = {**mail, "auth_key": self.derive("my secret", prelogin), "keyring": keyring}
        assert (await first.post("register", account)).status_code == 200

        again = (await client.post("/api/v1/auth/prelogin", json=mail)).json()
        login = {**mail, "auth_key": self.derive("my secret", again)}
        assert (await second.post("login", login)).status_code == 200
        assert (await second.call("GET", "keyring")).json() == {"keyring": keyring}

        change = {"current": login["auth_key"], "new": self.derive("a new secret", again)}
        assert (await second.call("PUT", "password", change)).status_code == 409
        change["keyring"] = base64.b64encode(os.urandom(1024)).decode()
        second.tokens = (await second.call("PUT", "password", change)).json()

        assert (await second.call("GET", "keyring")).json() == {"keyring": change["keyring"]}
        assert (await first.call("GET", "me")).status_code == 401


class TestMachine:
    async def test_the_owner_hands_out_a_key_and_takes_it_back(self, client):
        owner = {"authorization": f"Bearer {BOOTSTRAP}"}
        body = {"name": "scraper", "scopes": ["metrics"]}
        made = (await client.post("/api/v1/auth/api-keys", json=body, headers=owner)).json()
        scraper = {"x-api-key": made["key"]}

        assert (await client.get("/metrics", headers=scraper)).status_code == 200
        assert (await client.get("/api/v1/auth/me", headers=scraper)).status_code == 403

        gone = f"/api/v1/auth/api-keys/{made['api_key']['id']}"
        assert (await client.delete(gone, headers=owner)).status_code == 204
        assert (await client.get("/metrics", headers=scraper)).status_code == 401
