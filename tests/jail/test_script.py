"""What a script sees: settings, memory, a language model, its result, and files that it leaves."""

import base64
import json
import textwrap

import pytest

from tests.jail.desk import Desk, attempt


@pytest.fixture
def desk(tmp_path):
    with Desk(tmp_path) as opened:
        yield opened


class TestSettings:
    def test_are_read_by_key(self, desk):
        desk.run("print(settings.get('a'), settings['a'], 'a' in settings)", settings={"a": "1"})

        assert desk.out == "1 1 True\n"

    def test_are_none_where_they_are_missing(self, desk):
        desk.run("print(settings.get('b'), 'b' in settings)", settings={"a": "1"})

        assert desk.out == "None False\n"

    def test_are_listed(self, desk):
        desk.run("print(sorted(settings.keys()))", settings={"b": "", "a": ""})

        assert desk.out == "['a', 'b']\n"

    def test_cannot_be_changed(self, desk):
        desk.run(attempt("settings['a'] = '2'"), settings={"a": "1"})

        assert desk.out.startswith("TypeError|")

    def test_do_not_show_their_values(self, desk):
        desk.run("print(settings)", settings={"a": "secret"})

        assert "secret" not in desk.out


class TestMemory:
    def test_gives_what_earlier_executions_left(self, desk):
        desk.run("print(memory.get('a', 'b'), memory.get('a', 'c'))", memory={"a.b": [1]})

        assert desk.out == "[1] None\n"

    def test_gives_back_what_the_script_has_set(self, desk):
        desk.run("memory.set('a', 'b', {'c': (1, 2)})\nprint(memory.get('a', 'b'))")

        assert desk.out == "{'c': [1, 2]}\n"

    def test_tells_the_server_only_what_was_set(self, desk):
        desk.run("memory.set('a', 'new', None)", memory={"a.old": 1})

        assert desk.ended["memory"] == {"a.new": None}

    def test_keeps_the_value_as_it_was_when_it_was_set(self, desk):
        desk.run("x = [1]\nmemory.set('a', 'b', x)\nx.append(2)\nmemory.get('a', 'b').append(3)")

        assert desk.ended["memory"] == {"a.b": [1]}

    def test_takes_any_key_of_text(self, desk):
        desk.run("memory.set('__proto__', 'a.\"é\\n', 1)")

        assert desk.ended["memory"] == {'__proto__.a."é\n': 1}

    @pytest.mark.parametrize("call", ["memory.set(1, 'b', 1)", "memory.get('a', None)"])
    def test_refuses_a_key_that_is_no_text(self, desk, call):
        desk.run(attempt(call))

        assert desk.out.startswith("TypeError|The ")

    def test_refuses_a_key_that_is_too_long(self, desk):
        desk.run(attempt("memory.set('a', 'b' * 256, 1)"))

        assert desk.out.startswith("ValueError|Category and key")

    def test_refuses_what_is_no_json(self, desk):
        desk.run(attempt("memory.set('a', 'b', object())"))

        assert desk.out.startswith("TypeError|An object of type object")
        assert desk.ended["memory"] == {}

    def test_refuses_more_than_the_limit_and_keeps_what_was_there(self, desk):
        code = "memory.set('a', 'b', 'x' * 900)\n" + attempt("memory.set('a', 'c', 'x' * 200)")
        desk.run(code, limits={"memory_state_kb": 1})

        assert desk.out == "ValueError|What the script remembers is larger than 1 KiB."
        assert desk.ended["memory"] == {"a.b": "x" * 900}

    def test_counts_a_key_once_however_often_it_is_set(self, desk):
        desk.run(
            "for n in range(50): memory.set('a', 'b', 'x' * 900)", limits={"memory_state_kb": 1}
        )

        assert desk.ended["ok"]

    def test_is_never_larger_as_json_than_the_limit(self, desk):
        code = """
            try:
                for n in range(2000):
                    memory.set("a", f"é{n}", "é" * (n % 7))
            except ValueError:
                print(n)
        """
        desk.run(textwrap.dedent(code), limits={"memory_state_kb": 4})

        text = json.dumps(desk.ended["memory"], ensure_ascii=False, separators=(",", ":"))
        assert 4000 < len(text.encode()) <= 4096


class TestSetResult:
    @pytest.mark.parametrize("value", [None, 0, "é", [1, {"a": True}], 1.5, 2**63])
    def test_hands_back_json(self, desk, value):
        desk.run(f"set_result({value!r})")

        assert (desk.ended["has_result"], desk.ended["result"]) == (True, value)

    def test_need_not_be_called(self, desk):
        desk.run("pass")

        assert (desk.ended["has_result"], desk.ended["result"]) == (False, None)

    def test_counts_the_last_time(self, desk):
        desk.run("set_result(1)\nset_result(2)")

        assert desk.ended["result"] == 2

    def test_keeps_the_result_before_one_that_is_refused(self, desk):
        desk.run("set_result(1)\n" + attempt("set_result(object())"))

        assert desk.out.startswith("TypeError|")
        assert desk.ended["result"] == 1

    def test_keeps_the_value_as_it_was(self, desk):
        desk.run("x = [1]\nset_result(x)\nx.append(object())")

        assert desk.ended["result"] == [1]

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("float('nan')", "ValueError|Out of range float"),
            ("[float('inf')]", "ValueError|Out of range float"),
            ("(lambda x: x.append(x) or x)([])", "ValueError|Circular reference"),
            ("10 ** 30", "ValueError|An integer of the result has over 64 bits"),
            ("10 ** 5000", "ValueError|"),
            ("{1, 2}", "TypeError|An object of type set"),
            ("{(1, 2): 3}", "TypeError|"),
            ("b'x'", "TypeError|An object of type bytes"),
            ("'x' * 2000", "ValueError|The result is larger than 1 KiB."),
            ("__import__('functools').reduce(lambda x, _: [x], range(70), 0)", "ValueError|The re"),
            ("__import__('functools').reduce(lambda x, _: [x], range(99999), 0)", "ValueError|The"),
        ],
    )
    def test_refuses_what_others_cannot_read(self, desk, value, said):
        desk.run(attempt(f"set_result({value})"), limits={"result_kb": 1})

        assert desk.out.startswith(said)
        assert desk.ended["has_result"] is False

    def test_takes_no_more_of_an_object_than_its_data(self, desk):
        code = """
            class Evil(dict):
                def __repr__(self): raise KeyError
                __str__ = __reduce__ = __repr__
            set_result(Evil(a=1))
        """
        desk.run(textwrap.dedent(code))

        assert desk.ended["result"] == {"a": 1}

    def test_writes_halves_of_surrogate_pairs_as_another_character(self, desk):
        desk.run("set_result('a\\ud800b')")

        assert desk.ended["result"] == "a\ufffdb"

    def test_has_no_part_in_a_copy_of_the_process(self, desk):
        desk.run("import os\nif os.fork() == 0: set_result(1)\nelse: os.wait(); set_result(2)")

        assert desk.ended["result"] == 2


class TestSaveArtifact:
    def test_leaves_bytes(self, desk):
        desk.hear("ready")
        desk.job("save_artifact('a.bin', bytes(range(256)))")
        part = desk.hear("artifact")
        desk.done()

        assert base64.b64decode(part.pop("data")) == bytes(range(256))
        assert part == {"t": "artifact", "name": "a.bin", "more": False}

    def test_leaves_text_as_utf_8(self, desk):
        desk.hear("ready")
        desk.job("save_artifact('a.txt', 'é')")
        part = desk.hear("artifact")
        desk.done()

        assert base64.b64decode(part["data"]) == "é".encode()

    def test_leaves_an_empty_file(self, desk):
        desk.hear("ready")
        desk.job("save_artifact('empty', b'')")
        part = desk.hear("artifact")
        desk.done()

        assert (part["data"], part["more"]) == ("", False)

    def test_sends_a_large_file_in_pieces(self, desk):
        desk.hear("ready")
        desk.job("save_artifact('big', bytearray(2**20 + 1))")
        parts = [desk.hear("artifact") for _ in range(3)]
        desk.done()

        assert [len(base64.b64decode(part["data"])) for part in parts] == [2**19, 2**19, 1]
        assert [part["more"] for part in parts] == [True, True, False]

    @pytest.mark.parametrize(
        "name",
        ["", ".", "..", "a/b", "/etc/passwd", "..\\x", "a\0", "a\n", "\x7f", "x" * 129, "\ud800"],
    )
    def test_refuses_a_name_that_is_a_path_or_unprintable(self, desk, name):
        desk.run(attempt(f"save_artifact({name!r}, b'')"))

        assert desk.out.startswith("ValueError|An artifact has a name")

    @pytest.mark.parametrize("call", ["save_artifact(1, b'')", "save_artifact('a', 1)"])
    def test_refuses_other_types(self, desk, call):
        desk.run(attempt(call))

        assert desk.out.startswith("TypeError|")

    def test_refuses_a_file_that_is_too_large(self, desk):
        desk.run(attempt("save_artifact('a', bytes(2**20 + 1))"), limits={"artifact_mb": 1})

        assert desk.out == "ValueError|An artifact is larger than 1 MiB."

    def test_refuses_more_files_than_a_script_may_leave(self, desk):
        desk.hear("ready")
        desk.job(
            "save_artifact('a', b'')\n" + attempt("save_artifact('b', b'')"),
            limits={"artifacts": 1},
        )
        desk.hear("artifact")
        desk.done()

        assert desk.out == "ValueError|A script may leave 1 artifacts."


class TestAirlock:
    def test_can_be_imported_by_its_name(self, desk):
        desk.run(
            "import airlock\nfrom airlock import settings as s, memory as m, llm as l, set_result\n"
            "print(s is settings, m is memory, l is llm, airlock.save_artifact == save_artifact)"
        )

        assert desk.out == "True True True True\n"
