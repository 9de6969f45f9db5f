"""The flows that come with the product, on an installation without a key."""

import pytest

from tests.house import AUTHORIZED, LEAN, open_house, prepare
from tests.waiting import until

DOCUMENT = "Anna (anna@example.org) pays 50 EUR on 2026-01-31, see https://example.org/bill."
FINAL = {"completed", "failed", "cancelled"}


@pytest.fixture
async def client(tmp_path):
    changes = {"FEATURE_FLOWS": "on", "FEATURE_SANDBOX": "on"}
    async with open_house(prepare(tmp_path / "data"), **LEAN, **changes) as (_, client):
        yield client


async def run(client, flow_id: str, **given) -> dict:
    """The execution of a flow, when it has ended."""
    order = {"flow_id": flow_id, "input_data": given}
    started = await client.post("/spine/flows/execute", json=order, headers=AUTHORIZED)
    path = f"/spine/executions/{started.json()['execution_id']}"

    async def ended():
        seen = (await client.get(path, headers=AUTHORIZED)).json()
        return seen if seen["status"] in FINAL else None

    return await until(ended, within_s=60)


class TestSummarize:
    async def test_gives_a_summary(self, client):
        ended = await run(client, "summarize", document=DOCUMENT)

        assert ended["status"] == "completed", ended["error_message"]
        assert DOCUMENT in ended["output_data"]["summary"]["text"]

    async def test_names_what_it_was_not_given(self, client):
        ended = await run(client, "summarize", text=DOCUMENT)

        assert ended["status"] == "failed"
        assert "'document'" in ended["error_message"]


class TestReview:
    async def test_makes_a_report_of_both_branches(self, client):
        ended = await run(client, "review", document=DOCUMENT)

        assert ended["status"] == "completed", ended["error_message"]
        assert ended["output_data"].keys() == {"report"}
        report = ended["output_data"]["report"]["text"]
        assert "Sum up this document" in report
        assert "List the weak points" in report

    async def test_gives_the_findings_alone(self, client):
        ended = await run(client, "review", document=DOCUMENT, brief=True)

        assert ended["status"] == "completed", ended["error_message"]
        assert ended["output_data"].keys() == {"findings"}
        assert ended["node_results"]["report"]["status"] == "skipped"
        findings = ended["output_data"]["findings"]
        assert "Sum up this document" in findings["summary"]["text"]
        assert "List the weak points" in findings["text"]


class TestExtract:
    async def test_finds_facts_and_tells_of_them(self, client):
        ended = await run(client, "extract", document=DOCUMENT)

        assert ended["status"] == "completed", ended["error_message"]
        assert ended["output_data"]["facts"] == {
            "emails": ["anna@example.org"],
            "links": ["https://example.org/bill"],
            "dates": ["2026-01-31"],
            "amounts": ["50 EUR"],
        }
        assert "anna@example.org" in ended["output_data"]["note"]["text"]
