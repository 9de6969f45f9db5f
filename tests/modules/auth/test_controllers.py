"""HTTP of auth: statuses, shapes, and who may call what."""

import asyncio
import base64
from typing import ClassVar
from uuid import UUID

import httpx
import pytest
from litestar import WebSocket, get, websocket
from litestar.di import NamedDependency

from app.modules.auth.api import Authenticator, Principal
from app.modules.auth.module import AuthModule
from tests.modules.auth.people import ANNA, make_kit, served

AUTH = "/api/v1/auth"
PASSWORD = "correct horse battery"
NOBODY_ID = "00000000-0000-7000-8000-000000000000"


async def sign_up(client: httpx.AsyncClient, mail: str = ANNA, **more) -> dict:
    answer = await client.post(
        f"{AUTH}/register", json={"email": mail, "password": PASSWORD, **more}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def headers_of(client: httpx.AsyncClient, mail: str = ANNA) -> dict[str, str]:
    return bearer((await sign_up(client, mail))["access_token"])


async def make_key(client: httpx.AsyncClient, headers, *scopes: str, **more) -> dict[str, str]:
    body = {"name": "key", "scopes": scopes, **more}
    answer = await client.post(f"{AUTH}/api-keys", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return bearer(answer.json()["key"])


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    return answer.status_code, answer.json()["type"].removeprefix("urn:problem:")


class TestRegister:
    async def test_answers_200_with_the_tokens_of_the_contract(self, client, clock):
        answer = await client.post(f"{AUTH}/register", json={"email": ANNA, "password": PASSWORD})

        assert answer.status_code == 200
        assert set(answer.json()) == {"access_token", "refresh_token", "expires_at"}
        assert answer.json()["expires_at"] == (int(clock.now.timestamp()) + 600) * 1000

    async def test_a_taken_address_answers_409(self, client):
        await sign_up(client)

        again = await client.post(
            f"{AUTH}/register", json={"email": ANNA.upper(), "password": PASSWORD}
        )

        assert problem(again) == (409, "email-taken")

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            ({}, "bad-request"),
            ({"email": ANNA}, "credential-unclear"),
            ({"email": ANNA, "password": PASSWORD, "auth_key": "A" * 43}, "credential-unclear"),
            ({"email": ANNA, "password": "short"}, "password-refused"),
            ({"email": ANNA, "password": "x" * 1025}, "bad-request"),
            ({"email": ANNA, "password": "ü" * 600}, "password-refused"),
            ({"email": ANNA, "password": 12345678}, "bad-request"),
            ({"email": ANNA, "password": None}, "credential-unclear"),
            ({"email": ANNA, "auth_key": "AAAA"}, "auth-key-refused"),
            ({"email": "anna", "password": PASSWORD}, "mail-refused"),
            ({"email": "a\x00@x", "password": PASSWORD}, "mail-refused"),
            ({"email": "a" * 250 + "@x.yz", "password": PASSWORD}, "bad-request"),
            ({"email": ANNA, "password": PASSWORD, "keyring": "?"}, "bad-request"),
            ({"email": ANNA, "password": PASSWORD, "keyring": "A" * 16385}, "bad-request"),
            ({"email": ANNA, "password": PASSWORD, "device_name": ""}, "bad-request"),
            ({"email": ANNA, "password": PASSWORD, "device_name": "a\x00"}, "bad-request"),
            ({"email": ANNA, "password": PASSWORD, "device_name": "x" * 101}, "bad-request"),
            ({"email": ANNA, "password": PASSWORD, "tier": "team"}, "bad-request"),
            ({"email": ANNA, "password": PASSWORD, "role": "owner"}, "bad-request"),
        ],
    )
    async def test_wrong_input_answers_400_and_does_not_repeat_the_secret(self, client, body, kind):
        answer = await client.post(f"{AUTH}/register", json=body)

        assert problem(answer) == (400, kind)
        assert PASSWORD not in answer.text

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'"x"',
            b'"\xff"',
            b"[" * 5000,
            b'{"email":"\\udc00@x"}',
            b"NaN",
        ],
    )
    async def test_what_is_no_json_object_answers_400(self, client, body):
        answer = await client.post(f"{AUTH}/register", content=body)

        assert problem(answer)[0] == 400


class TestLogin:
    async def test_answers_200_with_tokens(self, client):
        await sign_up(client)

        answer = await client.post(
            f"{AUTH}/login", json={"email": ANNA, "password": PASSWORD, "device_name": "phone"}
        )

        assert answer.status_code == 200
        assert set(answer.json()) == {"access_token", "refresh_token", "expires_at"}

    async def test_every_refusal_looks_the_same(self, client):
        await sign_up(client)
        wrong = {"email": ANNA, "password": "not my password"}
        unknown = {"email": "nobody@example.org", "password": PASSWORD}

        answers = [await client.post(f"{AUTH}/login", json=body) for body in (wrong, unknown)]

        assert problem(answers[0]) == (401, "invalid-credentials")
        assert answers[0].content == answers[1].content
        assert answers[0].headers == answers[1].headers
        assert answers[0].headers["www-authenticate"] == "Bearer"

    async def test_guessing_answers_429_with_whole_seconds(self, client):
        for _ in range(5):
            await client.post(f"{AUTH}/login", json={"email": ANNA, "password": PASSWORD})

        answer = await client.post(f"{AUTH}/login", json={"email": ANNA, "password": PASSWORD})

        assert problem(answer) == (429, "too-many-attempts")
        assert int(answer.headers["retry-after"]) >= 1

    async def test_a_crowd_leaves_the_other_routes_alone(self, client, owner):
        async def login(number: int) -> int:
            body = {"email": f"{number}@example.org", "password": PASSWORD}
            return (await client.post(f"{AUTH}/login", json=body)).status_code

        async def slowest(count: int) -> float:
            clock = asyncio.get_running_loop().time
            times = []
            for _ in range(count):
                started = clock()
                assert (await client.get(f"{AUTH}/me", headers=owner)).status_code == 200
                times.append(clock() - started)
            return sorted(times)[int(count * 0.9)]

        await slowest(5)
        crowd = asyncio.gather(*(login(number) for number in range(200)))
        during = await slowest(20)

        assert set(await crowd) <= {401, 429}
        assert during < 1.0


class TestPrelogin:
    async def test_tells_nobody_who_has_an_account(self, client):
        await sign_up(client)

        known, unknown = [
            (await client.post(f"{AUTH}/prelogin", json={"email": mail})).json()
            for mail in (ANNA, "nobody@example.org")
        ]

        assert len(base64.b64decode(known.pop("salt"))) == len(
            base64.b64decode(unknown.pop("salt"))
        )
        assert known == unknown
        assert known == {"kdf": "argon2id", "memory_kib": 65536, "iterations": 3, "parallelism": 1}

    async def test_a_client_that_derives_its_key_from_it_can_log_in(self, client):
        salt = (await client.post(f"{AUTH}/prelogin", json={"email": ANNA})).json()["salt"]
        body = {"email": ANNA, "auth_key": base64.b64encode(base64.b64decode(salt) * 2).decode()}
        await client.post(f"{AUTH}/register", json={**body, "keyring": "d3JhcHBlZA=="})

        again = (await client.post(f"{AUTH}/prelogin", json={"email": ANNA})).json()["salt"]
        answer = await client.post(f"{AUTH}/login", json=body)

        assert again == salt
        assert answer.status_code == 200


class TestRefresh:
    async def test_answers_200_then_401_for_a_copy(self, client):
        first = await sign_up(client)
        second = (await self.refresh(client, first)).json()
        third = await self.refresh(client, second)

        reused = await self.refresh(client, first)

        assert third.status_code == 200
        assert problem(reused) == (401, "refresh-reused")
        assert problem(await self.refresh(client, third.json())) == (401, "invalid-credentials")

    async def test_an_unknown_token_answers_401(self, client):
        answer = await self.refresh(client, {"refresh_token": "x" * 43})

        assert problem(answer) == (401, "invalid-credentials")

    @pytest.mark.parametrize("token", [None, "", "x" * 513, 1])
    async def test_what_is_no_token_answers_400(self, client, token):
        assert problem(await self.refresh(client, {"refresh_token": token}))[0] == 400

    async def refresh(self, client, tokens: dict) -> httpx.Response:
        body = {"refresh_token": tokens["refresh_token"]}
        return await client.post(f"{AUTH}/refresh", json=body)


class TestMe:
    async def test_has_the_shape_of_the_contract(self, client):
        answer = await client.get(f"{AUTH}/me", headers=await headers_of(client))

        assert set(answer.json()) == {"id", "email", "tier"}
        assert UUID(answer.json()["id"])
        assert (answer.json()["email"], answer.json()["tier"]) == (ANNA, "free")

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"authorization": ""},
            {"authorization": "Bearer"},
            {"authorization": "Bearer x"},
            {"authorization": "Basic b3duZXI6eA=="},
            {"x-api-key": "x"},
            {"cookie": "access_token=x; session=y"},
        ],
    )
    async def test_nobody_answers_401(self, client, headers):
        answer = await client.get(f"{AUTH}/me", headers=headers)

        assert problem(answer) == (401, "invalid-credentials")
        assert answer.headers["www-authenticate"] == "Bearer"

    async def test_a_cookie_is_never_a_credential(self, client):
        token = (await sign_up(client))["access_token"]

        answer = await client.get(f"{AUTH}/me", headers={"cookie": f"authorization=Bearer {token}"})

        assert answer.status_code == 401


class TestPassword:
    async def test_answers_new_tokens_and_ends_the_old(self, client):
        old = await headers_of(client)
        body = {"current": PASSWORD, "new": "a different password"}

        answer = await client.put(f"{AUTH}/password", json=body, headers=old)

        assert answer.status_code == 200
        assert (await client.get(f"{AUTH}/me", headers=old)).status_code == 401
        new = bearer(answer.json()["access_token"])
        assert (await client.get(f"{AUTH}/me", headers=new)).status_code == 200

    async def test_says_what_is_missing(self, client):
        headers = bearer((await sign_up(client, keyring="d3JhcHBlZA=="))["access_token"])

        async def change(**body) -> tuple[int, str]:
            return problem(await client.put(f"{AUTH}/password", json=body, headers=headers))

        assert await change(current=PASSWORD, new="a different password") == (
            409,
            "keyring-required",
        )
        assert await change(current="wrong, wrong", new="a different one", keyring="bmV3") == (
            403,
            "password-wrong",
        )
        assert await change(current=PASSWORD, new="short", keyring="bmV3") == (
            400,
            "password-refused",
        )
        assert await change(current=PASSWORD) == (400, "bad-request")
        keyring = (await client.get(f"{AUTH}/keyring", headers=headers)).json()
        assert keyring == {"keyring": "d3JhcHBlZA=="}


class TestSessions:
    async def test_are_listed_with_the_current_one_marked(self, client):
        await sign_up(client, device_name="laptop")
        body = {"email": ANNA, "password": PASSWORD, "device_name": "phone"}
        phone = (await client.post(f"{AUTH}/login", json=body)).json()

        page = (await client.get(f"{AUTH}/sessions", headers=bearer(phone["access_token"]))).json()

        assert {row["device_name"]: row["is_current"] for row in page["items"]} == {
            "laptop": False,
            "phone": True,
        }
        assert page["next"] is None
        assert all(isinstance(row["expires_at"], int) for row in page["items"])

    async def test_one_is_ended_at_once(self, client):
        headers = await headers_of(client)
        (row,) = (await client.get(f"{AUTH}/sessions", headers=headers)).json()["items"]

        answer = await client.delete(f"{AUTH}/sessions/{row['id']}", headers=headers)

        assert (answer.status_code, answer.content) == (204, b"")
        assert (await client.get(f"{AUTH}/me", headers=headers)).status_code == 401

    async def test_the_others_are_ended_at_once(self, client):
        first = await headers_of(client)
        body = {"email": ANNA, "password": PASSWORD}
        second = bearer((await client.post(f"{AUTH}/login", json=body)).json()["access_token"])

        answer = await client.delete(f"{AUTH}/sessions", headers=second)

        assert answer.status_code == 204
        assert (await client.get(f"{AUTH}/me", headers=first)).status_code == 401
        assert (await client.get(f"{AUTH}/me", headers=second)).status_code == 200

    async def test_somebody_elses_and_nobodys_answer_404(self, client):
        anna, bert = await headers_of(client), await headers_of(client, "bert@example.org")
        (row,) = (await client.get(f"{AUTH}/sessions", headers=anna)).json()["items"]

        for session_id in (row["id"], NOBODY_ID):
            answer = await client.delete(f"{AUTH}/sessions/{session_id}", headers=bert)
            assert problem(answer) == (404, "session-not-found")
        answer = await client.delete(f"{AUTH}/sessions/first", headers=bert)
        assert problem(answer)[0] == 400


class TestApiKeys:
    async def test_the_key_is_shown_once(self, client):
        headers = await headers_of(client)
        body = {"name": "ci", "scopes": ["inference", "read"], "models": ["b", "a"]}

        made = await client.post(f"{AUTH}/api-keys", json=body, headers=headers)
        listed = await client.get(f"{AUTH}/api-keys", headers=headers)

        assert made.status_code == 201
        key = made.json()["key"]
        assert key.startswith(f"isk_{made.json()['api_key']['public_id']}_")
        assert listed.json()["items"] == [made.json()["api_key"]]
        assert key.split("_")[2] not in listed.text
        assert listed.json()["items"][0]["models"] == ["a", "b"]

    async def test_a_revoked_or_mistyped_one_answers_401(self, client):
        headers = await headers_of(client)
        key = await make_key(client, headers, "full")
        (row,) = (await client.get(f"{AUTH}/api-keys", headers=key)).json()["items"]
        mistyped = {"authorization": key["authorization"][:-1] + "!"}
        assert (await client.get(f"{AUTH}/me", headers=mistyped)).status_code == 401

        answer = await client.delete(f"{AUTH}/api-keys/{row['id']}", headers=headers)

        assert answer.status_code == 204
        assert (await client.get(f"{AUTH}/me", headers=key)).status_code == 401
        again = await client.delete(f"{AUTH}/api-keys/{row['id']}", headers=headers)
        assert problem(again) == (404, "key-not-found")

    async def test_an_expired_one_answers_401(self, client, clock):
        headers = await headers_of(client)
        expires_at = int(clock.now.timestamp() * 1000) + 5000
        key = await make_key(client, headers, "read", expires_at=expires_at)
        clock.advance(5)

        assert (await client.get(f"{AUTH}/me", headers=key)).status_code == 401

    async def test_somebody_elses_and_nobodys_answer_404(self, client):
        anna, bert = await headers_of(client), await headers_of(client, "bert@example.org")
        await make_key(client, anna, "read")
        (row,) = (await client.get(f"{AUTH}/api-keys", headers=anna)).json()["items"]

        for key_id in (row["id"], NOBODY_ID):
            answer = await client.delete(f"{AUTH}/api-keys/{key_id}", headers=bert)
            assert problem(answer) == (404, "key-not-found")

    async def test_nobody_makes_one_for_somebody_else(self, client):
        """CVE-2025-61928: a ``user_id`` in the body stood in for a session."""
        headers = await headers_of(client)
        user_id = (await client.get(f"{AUTH}/me", headers=headers)).json()["id"]
        body = {"name": "x", "scopes": ["full"], "user_id": user_id}

        without = await client.post(f"{AUTH}/api-keys", json=body)
        within = await client.post(f"{AUTH}/api-keys", json=body, headers=headers)

        assert problem(without) == (401, "invalid-credentials")
        assert problem(within)[0] == 400
        assert "user_id" in within.text

    @pytest.mark.parametrize(
        "body",
        [
            {"name": "x"},
            {"name": "x", "scopes": []},
            {"name": "x", "scopes": ["root"]},
            {"name": "", "scopes": ["read"]},
            {"name": "x", "scopes": ["read"], "models": []},
            {"name": "x", "scopes": ["read"], "models": [""]},
            {"name": "x", "scopes": ["read"], "expires_at": 1},
            {"name": "x", "scopes": ["read"], "expires_at": -1},
            {"name": "x", "scopes": ["read"], "expires_at": 10**18},
            {"name": "x", "scopes": ["read"], "expires_at": "tomorrow"},
        ],
    )
    async def test_wrong_input_answers_400(self, client, body):
        answer = await client.post(f"{AUTH}/api-keys", json=body, headers=await headers_of(client))

        assert problem(answer)[0] == 400

    async def test_a_member_has_no_key_for_the_metrics(self, client):
        answer = await client.post(
            f"{AUTH}/api-keys",
            json={"name": "x", "scopes": ["metrics"]},
            headers=await headers_of(client),
        )

        assert problem(answer) == (403, "scope-missing")
        assert answer.json()["required_scope"] == "metrics"


class TestScopes:
    """Every route of the module, from its router, by every kind of key."""

    PUBLIC: ClassVar = {"/register", "/login", "/prelogin", "/refresh"}

    def routes(self) -> list[tuple[str, str]]:
        found = []
        for controller in AuthModule.routes[:3]:
            for handler in vars(controller).values():
                for path in getattr(handler, "paths", ()):
                    full = f"{controller.path}{path}".rstrip("/").removeprefix(AUTH)
                    if full not in self.PUBLIC:
                        found += [(m, full) for m in handler.http_methods if m != "OPTIONS"]
        return sorted(found)

    async def test_a_key_does_what_it_is_for_and_no_more(self, client, owner):
        scopes = ("full", "read", "inference", "metrics")
        keys = {scope: await make_key(client, owner, scope) for scope in scopes}
        table = {}
        for method, path in self.routes():
            url = AUTH + path.replace("{session_id:str}", NOBODY_ID).replace(
                "{key_id:str}", NOBODY_ID
            )
            answers = [await client.request(method, url)]
            answers += [await client.request(method, url, headers=keys[scope]) for scope in scopes]
            table[f"{method} {path}"] = tuple(answer.status_code for answer in answers)

        looks, acts = (401, 200, 200, 403, 403), (401, 400, 403, 403, 403)
        assert table == {
            "GET /me": looks,
            "GET /keyring": looks,
            "GET /sessions": looks,
            "GET /api-keys": looks,
            "PUT /password": acts,
            "POST /api-keys": acts,
            "DELETE /sessions": (401, 204, 403, 403, 403),
            "DELETE /sessions/{session_id:str}": (401, 404, 403, 403, 403),
            "DELETE /api-keys/{key_id:str}": (401, 404, 403, 403, 403),
        }

    async def test_a_handler_may_name_another_scope(self, sqlite, cache, keys, clock):
        @get("/models", opt={"scope": "inference"})
        async def models(principal: NamedDependency[Principal]) -> dict[str, str]:
            return {"kind": principal.kind}

        async with served(make_kit(sqlite, cache, keys, clock), models) as client:
            headers = await headers_of(client)
            calls = await make_key(client, headers, "inference")
            reads = await make_key(client, headers, "read")

            assert (await client.get("/models", headers=calls)).json() == {"kind": "key"}
            assert (await client.get("/models", headers=reads)).status_code == 403


class TestMetrics:
    async def test_are_open_to_this_machine(self, sqlite, cache, keys, clock):
        kit = make_kit(sqlite, cache, keys, clock)
        for address in ("127.0.0.1", "::1"):
            async with served(kit, address=address) as client:
                answer = await client.get("/metrics")

                assert answer.status_code == 200
                assert answer.headers["content-type"].startswith("text/plain; version=")

    @pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "x-real-ip", "via"])
    async def test_a_proxy_on_this_machine_is_not_this_machine(
        self, sqlite, cache, keys, clock, name
    ):
        async with served(make_kit(sqlite, cache, keys, clock), address="127.0.0.1") as client:
            answer = await client.get("/metrics", headers={name: "127.0.0.1"})

        assert problem(answer) == (401, "invalid-credentials")

    async def test_are_open_to_the_owners_key(self, client, owner):
        key = await make_key(client, owner, "metrics")

        assert (await client.get("/metrics", headers=key)).status_code == 200
        assert (await client.get("/metrics", headers=owner)).status_code == 200

    async def test_are_closed_to_everybody_else(self, client, owner):
        reads = await make_key(client, owner, "read")
        member = await headers_of(client)

        assert problem(await client.get("/metrics")) == (401, "invalid-credentials")
        assert problem(await client.get("/metrics", headers=reads)) == (403, "scope-missing")
        assert problem(await client.get("/metrics", headers=member)) == (403, "owner-only")


class TestAnonymous:
    @pytest.fixture
    async def client(self, sqlite, cache, keys, clock):
        kit = make_kit(sqlite, cache, keys, clock)
        async with served(kit, AUTH_ANONYMOUS="on") as client:
            yield client

    async def test_is_the_owner_with_and_without_some_key(self, client):
        for headers in ({}, {"authorization": "Bearer sk_no_auth_required"}, {"x-api-key": "any"}):
            answer = await client.get(f"{AUTH}/me", headers=headers)
            assert answer.json()["email"] == "owner@localhost"

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"host": "rebound.evil.example"},
            {"origin": "https://evil.example", "authorization": "Basic dTpw"},
            {"authorization": "Bearer isk_x"},
        ],
    )
    async def test_a_page_from_elsewhere_is_nobody(self, client, headers):
        body = {"name": "x", "scopes": ["full"]}

        answer = await client.post(f"{AUTH}/api-keys", json=body, headers=headers)

        assert problem(answer) == (401, "invalid-credentials")

    async def test_a_page_of_this_machine_is_the_owner(self, client):
        for origin in ("http://localhost:1420", "app://insula"):
            answer = await client.get(f"{AUTH}/me", headers={"origin": origin})
            assert answer.status_code == 200


class TestOpenSockets:
    async def test_are_closed_when_their_session_ends(self, sqlite, cache, keys, clock):
        kit = make_kit(sqlite, cache, keys, clock)

        @websocket("/line")
        async def line(socket: WebSocket, principal: NamedDependency[Principal]) -> None:
            await socket.accept()
            await kit.use(Authenticator).until_revoked(principal)
            await socket.close(4401)

        async with served(kit, line) as client:
            headers = await headers_of(client)
            (row,) = (await client.get(f"{AUTH}/sessions", headers=headers)).json()["items"]
            sent: asyncio.Queue[dict] = asyncio.Queue()
            socket = asyncio.create_task(connect(client.app, "/line", headers, sent))
            async with asyncio.timeout(5):
                assert (await sent.get())["type"] == "websocket.accept"

                await client.delete(f"{AUTH}/sessions/{row['id']}", headers=headers)

                async with asyncio.timeout(1):
                    closed = await sent.get()
                await socket
        assert (closed["type"], closed["code"]) == ("websocket.close", 4401)

    async def test_are_not_opened_for_nobody(self, sqlite, cache, keys, clock):
        @websocket("/line")
        async def line(socket: WebSocket, principal: NamedDependency[Principal]) -> None:
            await socket.accept()

        async with served(make_kit(sqlite, cache, keys, clock), line) as client:
            headers = await headers_of(client)
            reads = await make_key(client, headers, "read")
            for given in ({}, reads, {"cookie": f"token={headers['authorization']}"}):
                sent: asyncio.Queue[dict] = asyncio.Queue()
                await connect(client.app, "/line", given, sent)
                assert (await sent.get())["type"] == "websocket.close"


async def connect(app, path: str, headers: dict[str, str], sent: asyncio.Queue) -> None:
    """Open a WebSocket in this event loop; what the server sends goes to ``sent``."""
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "ws",
        "http_version": "1.1",
        "subprotocols": [],
        "server": ("127.0.0.1", 80),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    arriving: asyncio.Queue[dict] = asyncio.Queue()
    arriving.put_nowait({"type": "websocket.connect"})
    await app(scope, arriving.get, sent.put)
