"""The page at /docs works offline, and its document says what the server does."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from litestar import Controller, Litestar, get, post
from litestar.di import NamedDependency, Provide
from litestar.params import JSONBody
from litestar.testing import AsyncTestClient

from app.adapters.cache.memory import MemoryCache
from app.docs import POLICY, openapi_config
from app.kernel.db import Database
from app.kernel.errors import Conflict
from app.kernel.jobs import JobBook
from app.kernel.keys import Keyring
from app.kernel.module import House, Kit, Module, always
from app.kernel.mount import Block, mount

LINKS = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("a", "href")}
RAW = {
    "/v1/models": {"get": {"summary": "Models", "responses": {"200": {"description": "Models"}}}},
    "/tenants": {"delete": {"responses": {"204": {"description": "Gone"}}}},
}


class Door(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: int


class TenantCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    doors: list[Door] = []


class TenantRead(msgspec.Struct, frozen=True):
    name: str


class TenantController(Controller):
    path = "/tenants"

    @get()
    async def first(self) -> TenantRead:
        """Whoever moved in first."""
        return TenantRead("Marcus")

    @post()
    async def move_in(
        self, principal: NamedDependency[str], data: JSONBody[TenantCreate]
    ) -> TenantRead:
        raise Conflict(f"{data.name} lives here already, says {principal}.")


class TenantModule(Module):
    name = "tenants"
    routes: ClassVar[Any] = (TenantController,)

    def dependencies(self) -> dict[str, Provide]:
        return {"principal": always("Livia")}

    def openapi_paths(self) -> dict[str, Any]:
        return RAW


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[AsyncTestClient[Litestar]]:
    house = House(version="1.2.3", data_dir="", is_loopback=True)
    db = Database(f"sqlite+insula:///{tmp_path / 'test.db'}", JobBook())
    kit = Kit(db, MemoryCache(), None, Keyring(["x" * 32]), house)
    block = Block((TenantModule,), {}, kit, JobBook())

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        yield

    docs = openapi_config("1.2.3", block.openapi_paths)
    async with AsyncTestClient(mount(block, lifespan, docs, None)) as client:
        yield client
    await db.close()


@pytest.fixture
async def document(client: AsyncTestClient[Litestar]) -> dict[str, Any]:
    response = await client.get("/docs/openapi.json")
    assert response.status_code == 200
    return response.json()


class LinkParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if (tag, name) in LINKS and value]


def links_of(page: str) -> list[str]:
    parser = LinkParser()
    parser.feed(page)
    return parser.links


class TestPage:
    @pytest.mark.parametrize("path", ["/docs", "/docs/"])
    async def test_is_html_with_our_title(self, client, path):
        response = await client.get(path)

        assert response.status_code == 200
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert "<title>Insula</title>" in response.text

    async def test_refers_to_this_server_only(self, client):
        page = (await client.get("/docs")).text

        assert re.search(r"(https?:)?//", page, re.I) is None
        assert all(link.startswith(("/docs/", "data:")) for link in links_of(page))

    async def test_forbids_the_browser_every_other_server(self, client):
        response = await client.get("/docs")

        assert response.headers["content-security-policy"] == POLICY
        assert "http" not in POLICY
        assert "default-src 'none'" in POLICY

    async def test_finds_every_file_it_refers_to(self, client):
        links = [link for link in links_of((await client.get("/docs")).text) if link[0] == "/"]

        assets = {link.split("?")[0]: await client.get(link) for link in links}

        assert set(assets) == {
            "/docs/assets/swagger-ui.css",
            "/docs/assets/swagger-ui-bundle.js",
            "/docs/assets/start.js",
        }
        assert all(asset.status_code == 200 for asset in assets.values())

    async def test_starts_with_the_document_of_this_server(self, client):
        start = (await client.get("/docs/assets/start.js")).text

        assert 'url: "/docs/openapi.json"' in start
        assert "validatorUrl: null" in start
        assert "://" not in start


class TestAssets:
    @pytest.mark.parametrize(
        ("name", "media_type", "beginning"),
        [
            ("swagger-ui-bundle.js", "text/javascript; charset=utf-8", "/*! For license"),
            ("swagger-ui.css", "text/css; charset=utf-8", ".swagger-ui{"),
        ],
    )
    async def test_come_compressed_or_not_as_the_client_likes(
        self, client, name, media_type, beginning
    ):
        path = f"/docs/assets/{name}"

        packed = await client.get(path, headers={"accept-encoding": "gzip, br"})
        plain = await client.get(path, headers={"accept-encoding": "identity"})

        assert packed.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"
        assert packed.headers["content-type"] == plain.headers["content-type"] == media_type
        assert packed.text == plain.text
        assert plain.text.startswith(beginning)

    async def test_may_be_kept_for_a_year(self, client):
        response = await client.get("/docs/assets/swagger-ui.css")

        assert response.headers["cache-control"] == "max-age=31536000, public, immutable"

    async def test_are_these_and_no_other_file(self, client):
        response = await client.get("/docs/assets/LICENSE")

        assert response.status_code == 404
        assert response.json()["type"] == "urn:problem:not-found"

    def test_come_with_their_licences(self):
        folder = Path(openapi_config.__code__.co_filename).parent / "assets" / "swagger"

        assert "Apache License" in (folder / "LICENSE").read_text()
        assert "SmartBear" in (folder / "NOTICE").read_text()
        assert "MIT" in (folder / "swagger-ui-bundle.js.LICENSE.txt").read_text()


class TestDocument:
    async def test_names_the_product_and_its_version(self, document):
        assert document["info"] == {"title": "Insula", "version": "1.2.3"}
        assert document["openapi"].startswith("3.1")

    async def test_describes_handlers_and_raw_paths_together(self, document):
        assert list(document["paths"]) == ["/tenants", "/v1/models"]
        assert set(document["paths"]["/tenants"]) == {"get", "post", "delete"}
        assert document["paths"]["/v1/models"] == RAW["/v1/models"]

    async def test_leaves_itself_out(self, document):
        assert not [path for path in document["paths"] if path.startswith("/docs")]

    async def test_takes_descriptions_from_docstrings(self, document):
        assert document["paths"]["/tenants"]["get"]["description"] == "Whoever moved in first."

    async def test_asks_for_a_bearer_token_where_there_is_a_principal(self, document):
        scheme = document["components"]["securitySchemes"]["bearer"]

        assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
        assert document["security"] == [{"bearer": []}]
        assert "security" not in document["paths"]["/tenants"]["post"]
        assert document["paths"]["/tenants"]["get"]["security"] == []

    async def test_says_which_bodies_refuse_unknown_fields(self, document):
        schemas = document["components"]["schemas"]

        assert schemas["TenantCreate"]["additionalProperties"] is False
        assert schemas["Door"]["additionalProperties"] is False
        assert "additionalProperties" not in schemas["TenantRead"]

    async def test_describes_failures_as_the_server_sends_them(self, client, document):
        failure = await client.post("/tenants", json={"name": "Marcus"})
        refused = document["paths"]["/tenants"]["post"]["responses"]["400"]["content"]

        assert list(refused) == ["application/problem+json"]
        assert failure.headers["content-type"] == "application/problem+json"
        assert set(failure.json()) == set(document["components"]["schemas"]["Problem"]["required"])

    async def test_is_the_same_when_it_is_asked_for_again(self, client, document):
        assert (await client.get("/docs/openapi.json")).json() == document
