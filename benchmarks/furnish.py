"""What an Insula has that is measured: prices, and a key with every limit, none of which binds."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from benchmarks.processes import BenchError, Server, ask
from benchmarks.targets import CLIENT_KEY, MODELS, UPSTREAM, Street, make_ready

LIMITS: Final = {
    "rpm": 10**9,
    "tpm": 10**12,
    "parallel": 10**6,
    "budget_nanos": 10**15,
    "budget_period": "total",
}
CURRENCY = "USD"
PRICE_VERSION = "bench-1"
# For a million tokens.
INPUT_PRICE: Final = Decimal("0.35")
CACHED_PRICE: Final = Decimal("0.0875")
OUTPUT_PRICE: Final = Decimal("1.4")


@contextlib.contextmanager
def furnished(street: Street, **settings: str) -> Iterator[Server]:
    """Run Insula with prices; its ``key`` is one that may use the models, within limits."""
    server = street.insula(street.folder(), settings=settings)
    import_prices(street, server)
    with street.started(server):
        make_ready(server)
        server.key = limited_key(server)
        yield server


def import_prices(street: Street, server: Server) -> None:
    """Give every model a price, as an owner does before the first start."""
    entries = [
        {
            "upstream": UPSTREAM,
            "model": model,
            "input": str(INPUT_PRICE),
            "cached_input": str(CACHED_PRICE),
            "output": str(OUTPUT_PRICE),
        }
        for model in MODELS
    ]
    listed = {"version": PRICE_VERSION, "currency": CURRENCY, "models": entries}
    with tempfile.NamedTemporaryFile("w", dir=street.places.scratch, suffix=".json") as file:
        json.dump(listed, file)
        file.flush()
        server.prepare(street.places.python, "-m", "app", "models", "import", file.name)


def limited_key(server: Server) -> str:
    """Make a key by the API, and limit it."""
    wanted = {"name": "bench", "scopes": ["inference", "read"], "models": list(MODELS)}
    made = told(server, "/api/v1/auth/api-keys", wanted)
    told(server, f"/api/v1/billing/limits/key/{made['api_key']['id']}", LIMITS, method="PUT")
    return str(made["key"])


def told(
    server: Server, path: str, wanted: object = None, *, method: str = "", key: str = CLIENT_KEY
) -> Any:
    """What the server's own API answers, to its owner if to nobody else."""
    text = "" if wanted is None else json.dumps(wanted)
    status, answer = ask(server.port, path, body=text, key=key, method=method)
    if status >= 400:
        raise BenchError(f"{server.name}: {path} answered {status}: {answer.decode()[:500]}")
    return json.loads(answer)


def cost_nanos(input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
    """What these tokens cost, in billionths, rounded half up."""
    fresh = input_tokens - cached_tokens
    dear = fresh * INPUT_PRICE + cached_tokens * CACHED_PRICE + output_tokens * OUTPUT_PRICE
    return int(dear * 1000 + Decimal("0.5"))
