"""The very first start: what a newcomer sees, and that it is seen once."""

import re
from pathlib import Path

import httpx
import pytest

from tests.house import RunningServer

pytestmark = pytest.mark.slow
KEY = re.compile(r"Your API key, shown this once: (isk_\w+)")


class TestFirstStart:
    async def test_prints_address_docs_and_a_key_that_works_and_never_the_key_again(
        self, tmp_path: Path
    ):
        server = RunningServer(tmp_path / "data", APP_BOOTSTRAP_KEY="", LOG_LEVEL="info")
        await server.start()
        first = server.log.read_text()
        key = KEY.search(first)[1]
        async with httpx.AsyncClient(base_url=server.base_url) as client:
            answer = await client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        server.stop()
        server.log.write_text("")
        await server.start()
        server.stop()
        second = server.log.read_text()

        assert f"on {server.base_url} (docs: {server.base_url}/docs)" in first
        assert answer.status_code == 200
        assert first.count(key) == 1
        assert KEY.search(second) is None
        assert key.split("_")[2] not in second
