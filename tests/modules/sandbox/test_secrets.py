"""Secrets of a project: scripts have them, and nobody else sees them."""

import pytest
import pytest_asyncio
from sqlalchemy import text

from tests.house import AUTHORIZED
from tests.modules.sandbox.desks import file, open_desk

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "vault-token-7391-abcd"
LONGER = f"{TOKEN}-and-more"
SHOWN, LONGER_SHOWN = "[REDACTED...abcd]", "[REDACTED...more]"
# Everything that a script says, says it.
TELLS = """
import sys
token = settings['TOKEN']
print('out', token)
print('err', token, file=sys.stderr)
save_artifact('a.txt', f'file {token}')
memory.set('said', 'before', {token: [token]})
set_result({token: [token]})
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tmp_path_factory):
    async with open_desk(tmp_path_factory.mktemp("house") / "data") as opened:
        await opened.project("vault", secrets={"TOKEN": TOKEN, "LONGER": LONGER})
        yield opened


def stored(desk) -> bytes:
    """Every byte that the house keeps, but for the sealing key's."""
    files = [path for path in desk.house.settings.data_dir.rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in files)


class TestSecrets:
    async def test_are_settings_of_the_script(self, desk):
        code = "set_result([len(settings['TOKEN']), settings.get('LONGER')[::-1]])"

        read = await desk.run(code, project="vault")

        assert read["result"] == [len(TOKEN), LONGER[::-1]]

    async def test_are_stronger_than_settings_of_the_request(self, desk):
        code = "set_result([settings['TOKEN'][::-1], settings['OTHER']])"

        read = await desk.run(code, project="vault", settings={"TOKEN": "mine", "OTHER": "2"})

        assert read["result"] == [TOKEN[::-1], "2"]

    async def test_of_one_project_are_not_those_of_another(self, desk):
        read = await desk.run("set_result(settings.get('TOKEN'))")

        assert read["result"] is None


class TestRedaction:
    async def test_of_what_a_script_prints_and_hands_back(self, desk):
        read = await desk.run(TELLS, project="vault")

        assert (read["stdout"], read["stderr"]) == (f"out {SHOWN}\n", f"err {SHOWN}\n")
        assert read["result"] == {SHOWN: [SHOWN]}
        assert read["memory_updates"] == {"said.before": {SHOWN: [SHOWN]}}

    async def test_of_an_error(self, desk):
        read = await desk.run("raise ValueError(settings['TOKEN'])", project="vault")

        assert SHOWN in read["error"]
        assert TOKEN not in read["error"]

    async def test_of_an_error_in_a_list(self, desk):
        await desk.run("raise ValueError(settings['TOKEN'])", project="vault")

        listed = await desk.get("/executions?limit=1&project=vault")

        assert SHOWN in listed.json()["items"][0]["error"]
        assert TOKEN not in listed.text

    async def test_of_the_longest_first(self, desk):
        read = await desk.run("print(settings['LONGER'])", project="vault")

        assert read["stdout"] == f"{LONGER_SHOWN}\n"

    async def test_of_one_that_is_printed_in_pieces(self, desk):
        code = "for letter in settings['TOKEN']: print(letter, end='', flush=True)"

        read = await desk.run(code, project="vault")

        assert read["stdout"] == SHOWN

    async def test_of_an_artifact_and_its_name(self, desk):
        code = "save_artifact(settings['TOKEN'], 'file ' + settings['TOKEN'])"

        read = await desk.run(code, project="vault")

        assert read["artifacts"] == [{"name": SHOWN, "size_bytes": len(f"file {SHOWN}")}]
        answer = await desk.artifact(read["execution_id"], SHOWN)
        assert answer.text == f"file {SHOWN}"

    async def test_of_a_question_to_a_model(self, desk):
        code = """
token = settings['TOKEN']
print(token, flush=True)
llm.complete('my ' + token, token)
"""

        read = await desk.run(code, project="vault")

        assert read["llm_request"]["prompt"] == f"my {SHOWN}"
        assert read["llm_request"]["model"] == SHOWN
        assert read["stdout"] == f"{SHOWN}\n"
        await desk.cancel(read["execution_id"])

    async def test_of_every_event(self, desk):
        code = f"{TELLS}\nllm.complete(token)\nraise ValueError(token)"
        execution_id, _ = await desk.asking(code, project="vault")
        await desk.respond(execution_id, "x")
        await desk.waited(execution_id)

        told = await desk.get(f"/executions/{execution_id}/events")
        logged = await desk.client.get(f"/api/v1/runs/{execution_id}/events", headers=AUTHORIZED)
        run = await desk.client.get(f"/api/v1/runs/{execution_id}", headers=AUTHORIZED)

        assert SHOWN in told.text
        assert TOKEN not in told.text + logged.text + run.text

    async def test_of_all_that_is_kept(self, desk):
        code = f"{TELLS}\nllm.complete(token)\nraise ValueError(token)"
        execution_id, _ = await desk.asking(code, project="vault")

        while_paused = stored(desk)
        await desk.cancel(execution_id)

        assert TOKEN.encode() not in while_paused
        assert TOKEN.encode() not in stored(desk)

    async def test_of_what_looks_like_a_key(self, desk):
        read = await desk.run("print('sk-' + 'a1' * 16); print('postgres://u:pass@host')")

        assert read["stdout"] == "sk-[REDACTED]\npostgres://u:[REDACTED]@host\n"


class TestRequest:
    async def test_is_not_kept_when_the_execution_has_ended(self, desk):
        given = "a-given-text-that-is-unique"

        await desk.run(
            f"# {given}",
            settings={"a": given},
            memory={"a.b": given},
            files=[file("a", given.encode())],
        )

        async with desk.house.db.read() as session:
            rows = await session.execute(text("SELECT request FROM sandbox_executions"))
        assert all(given.encode() not in (row.request or b"") for row in rows)

    async def test_is_not_shown(self, desk):
        read = await desk.run("1", settings={"a": "a-setting-of-the-caller"})

        seen = await desk.get(f"/executions/{read['execution_id']}")

        assert "a-setting-of-the-caller" not in seen.text
