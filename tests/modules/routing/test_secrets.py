"""Keys of providers are found nowhere: not on disk, not in a log, not in an answer."""

import asyncio
import logging

import pytest

from tests.house import AUTHORIZED
from tests.modules.routing.asking import CHAT, body, module
from tests.scripted_upstream import MODELS

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUSE_KEYS = ("sk-one-1", "sk-one-2", "sk-two")
OWN_KEY = "sk-callers-own-0123456789"
STREAMS_THAT_HANG = {"slow", "hangs", "hangs-streaming", "hangs-first", "late"}


def on_disk(folder) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_a_sweep_finds_none(open_client, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    client = await open_client(
        LOG_LEVEL="debug", ROUTING_FIRST_BYTE_TIMEOUT_S="0.05", ROUTING_IDLE_TIMEOUT_S="0.05"
    )
    heard: list[str] = []

    async def ask(model: str, stream: bool, **headers: str) -> None:
        answer = await client.post(CHAT, json=body(model, stream=stream), headers=headers)
        heard.append(f"{answer.headers} {answer.text}")

    asks = [
        ask(model, stream, **own)
        for model in MODELS
        for stream in (False, True)
        for own in ({}, {"x-provider-key": OWN_KEY, "x-cache-ttl": "60"})
        if not (stream and model in STREAMS_THAT_HANG)
    ]
    await asyncio.gather(*asks)
    for path in (
        "/metrics",
        "/api/v1/usage",
        "/api/v1/routing/upstreams",
        "/api/v1/routing/models",
    ):
        answer = await client.get(path, headers=AUTHORIZED)
        assert answer.status_code == 200
        heard.append(answer.text)
    heard.append((await client.get("/docs/openapi.json")).text)

    told = capfd.readouterr()
    places = {
        "answers": "".join(heard),
        "log": caplog.text + told.out + told.err,
        "disk": on_disk(tmp_path).decode("latin-1"),
        "settings": repr([module.__dict__ for module in client.house.block.modules]),
    }

    found = [
        (place, key)
        for place, text in places.items()
        for key in (*HOUSE_KEYS, OWN_KEY)
        if key in text
    ]
    assert found == []
    assert len(heard) > 40


async def test_a_callers_own_key_is_forgotten_with_its_call(client):
    for stream in (False, True):
        answer = await client.post(
            CHAT, json=body(stream=stream), headers={"x-provider-key": OWN_KEY}
        )
        assert answer.status_code == 200

    texts = list(held_by(module(client, "routing")))

    assert any("sk-one-1" in text for text in texts)
    assert not any(OWN_KEY in text for text in texts)


def held_by(root: object):
    """Every text that our own objects keep, from ``root`` on."""
    seen: set[int] = set()
    left: list[object] = [root]
    while left:
        found = left.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, (str, bytes)):
            yield found if isinstance(found, str) else found.decode("latin-1")
        elif isinstance(found, dict):
            left += [*found, *found.values()]
        elif isinstance(found, (list, tuple, set, frozenset)):
            left += found
        elif type(found).__module__.startswith("app."):
            left += [getattr(found, name, None) for name in members(found)]


def members(found: object) -> list[str]:
    slots = [name for kind in type(found).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*slots, *getattr(found, "__struct_fields__", ()), *getattr(found, "__dict__", ())]
