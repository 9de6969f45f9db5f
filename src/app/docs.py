"""The API's own description at ``/docs``, with every file it needs: nothing leaves the machine.

Swagger UI is swagger-ui-dist 5.35.0 from npm, unchanged, in ``assets/swagger`` with its licences.
"""

import gzip
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from litestar import Request, Response, Router, get
from litestar.datastructures import CacheControlHeader, ResponseHeader
from litestar.enums import MediaType
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import FromPath
from litestar.routes import BaseRoute, HTTPRoute
from msgspec.inspect import StructType, type_info

from app.kernel.errors import NotFound

PATH = "/docs"
ASSETS = Path(__file__).parent / "assets"
FOREVER = CacheControlHeader(public=True, max_age=31_536_000, immutable=True)

# What the page may load is enforced by the browser too, whatever a later Swagger UI would like.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    '<path fill="#9a3b26" d="M1 6l7-5 7 5v9H1z"/>'
    '<path fill="#fff" d="M4 8h3v7H4zm5 0h3v3H9z"/></svg>'
)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:image/svg+xml,{icon}">
<link rel="stylesheet" href="{css}">
</head>
<body>
<div id="docs"></div>
<script src="{bundle}"></script>
<script src="{start}"></script>
</body>
</html>
"""

PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "A failure (RFC 9457). Branch on `type`; `detail` is for people.",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:problem:quota-exceeded"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
    },
}
PROBLEM_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}

BEARER = SecurityScheme(
    type="http", scheme="bearer", description="An access token of a session, or an API key."
)

AnyRequest = Request[Any, Any, Any]
Document = dict[str, Any]


class Asset(msgspec.Struct, frozen=True):
    """A file of the page, kept compressed, and a URL that changes with its content."""

    name: str
    media_type: str
    packed: bytes

    @property
    def url(self) -> str:
        return f"{PATH}/assets/{self.name}?v={hashlib.sha256(self.packed).hexdigest()[:12]}"


class PagePlugin(OpenAPIRenderPlugin):
    """Renders the page at ``/docs``."""

    def __init__(self, assets: Mapping[str, Asset]) -> None:
        super().__init__(path="/", media_type=MediaType.HTML)
        self._assets = assets

    def render(
        self,
        request: AnyRequest,  # noqa: ARG002 - the base class says what is given
        openapi_schema: Document,
    ) -> bytes:
        page = PAGE.format(
            title=openapi_schema["info"]["title"],
            icon=quote(ICON, safe=""),
            css=self._assets["swagger-ui.css"].url,
            bundle=self._assets["swagger-ui-bundle.js"].url,
            start=self._assets["start.js"].url,
        )
        return page.encode()


class DocumentPlugin(OpenAPIRenderPlugin):
    """Renders ``/docs/openapi.json`` when it is first asked for: by then all routes are known."""

    def __init__(self, raw_paths: Mapping[str, Any]) -> None:
        super().__init__(path="/openapi.json", media_type=MediaType.JSON)
        self._raw_paths = raw_paths
        self._rendered = b""

    def render(self, request: AnyRequest, openapi_schema: Document) -> bytes:
        if not self._rendered:
            document = complete(openapi_schema, request.app.routes, self._raw_paths)
            self._rendered = self.render_json(request, document)
        return self._rendered


def openapi_config(version: str, raw_paths: Mapping[str, Any]) -> OpenAPIConfig:
    """Describe the API. ``raw_paths`` are OpenAPI path items of raw ASGI handlers."""
    assets = _assets()
    headers = [
        ResponseHeader(name="content-security-policy", value=POLICY),
        ResponseHeader(name="x-content-type-options", value="nosniff"),
    ]
    return OpenAPIConfig(
        title="Insula",
        version=version,
        path=PATH,
        use_handler_docstrings=True,
        components=Components(security_schemes={"bearer": BEARER}),
        security=[{"bearer": []}],
        render_plugins=[PagePlugin(assets), DocumentPlugin(raw_paths)],
        openapi_router=Router(
            PATH,
            route_handlers=[_serving(assets)],
            include_in_schema=False,
            response_headers=headers,
        ),
    )


def complete(
    document: Document, routes: Iterable[BaseRoute], raw_paths: Mapping[str, Any]
) -> Document:
    """Add what Litestar leaves out, or says in a way that is not ours."""
    document = deepcopy(document)
    paths: Document = document["paths"]
    schemas: Document = document["components"].setdefault("schemas", {})
    schemas["Problem"] = PROBLEM
    for path, method, handler in _operations(routes):
        operation = paths[path][method]
        if "principal" not in handler.parsed_fn_signature.parameters:
            operation["security"] = []
        for name in _strict_structs(handler):
            if name in schemas:
                schemas[name]["additionalProperties"] = False
        for response in operation["responses"].values():
            _correct(response)
    for path, item in raw_paths.items():
        paths[path] = paths.get(path, {}) | item
    document["paths"] = dict(sorted(paths.items()))
    return document


def _operations(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    for route in routes:
        if isinstance(route, HTTPRoute):
            for method, (handler, _) in route.route_handler_map.items():
                if handler.resolve_include_in_schema():
                    yield route.path_format, method.lower(), handler


def _strict_structs(handler: HTTPRouteHandler) -> Iterator[str]:
    """Name the structs in the body of a request that refuse a field they do not know."""
    body = handler.parsed_fn_signature.parameters.get("data")
    waiting: list[Any] = [type_info(body.annotation)] if body else []
    seen: set[int] = set()
    while waiting:
        found = waiting.pop()
        if id(found) in seen or not isinstance(found, msgspec.inspect.Type | msgspec.inspect.Field):
            continue
        seen.add(id(found))
        if isinstance(found, StructType) and found.forbid_unknown_fields:
            yield found.cls.__name__
        for value in msgspec.structs.asdict(found).values():
            waiting.extend(value if isinstance(value, tuple) else [value])


def _correct(response: Document) -> None:
    """Our failures are problem documents; Litestar describes its own exceptions."""
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    if "status_code" in schema.get("properties", {}):
        response["content"] = PROBLEM_CONTENT


def _assets() -> dict[str, Asset]:
    kinds = {
        "swagger-ui-bundle.js": "text/javascript",
        "swagger-ui.css": "text/css",
    }
    swagger = [
        Asset(name, kind, (ASSETS / "swagger" / f"{name}.gz").read_bytes())
        for name, kind in kinds.items()
    ]
    start = gzip.compress((ASSETS / "start.js").read_bytes(), mtime=0)
    own = Asset("start.js", kinds["swagger-ui-bundle.js"], start)
    return {asset.name: asset for asset in (*swagger, own)}


def _serving(assets: Mapping[str, Asset]) -> HTTPRouteHandler:
    @get("/assets/{name:str}", cache_control=FOREVER, sync_to_thread=False)
    def serve(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
        if (asset := assets.get(name)) is None:
            raise NotFound("No such file.")
        headers = {"vary": "accept-encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            return Response(asset.packed, media_type=asset.media_type, headers=headers)
        return Response(gzip.decompress(asset.packed), media_type=asset.media_type, headers=headers)

    return serve
