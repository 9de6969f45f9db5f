"""Names of models and servers."""

import pytest

from app.modules.routing.domain.names import (
    base_url,
    close_names,
    kind_of,
    ollama_url,
    public_name,
)


class TestNames:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("http://host", "http://host/v1"),
            ("http://host/", "http://host/v1"),
            ("http://host:1/v1/", "http://host:1/v1"),
            ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
        ],
    )
    def test_a_bare_server_gets_v1(self, given, expected):
        assert base_url(given) == expected

    @pytest.mark.parametrize("given", ["host", "ftp://host", "http://", ""])
    def test_what_is_no_url_is_refused(self, given):
        with pytest.raises(ValueError, match="URL"):
            base_url(given)

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("127.0.0.1:1234", "http://127.0.0.1:1234"),
            ("gpu", "http://gpu:11434"),
            ("https://gpu/", "https://gpu:11434"),
            ("http://localhost:11434", "http://localhost:11434"),
        ],
    )
    def test_ollamas_variable_may_lack_scheme_and_port(self, given, expected):
        assert ollama_url(given) == expected

    def test_a_taken_name_and_a_local_one_say_where_they_run(self):
        assert public_name("groq", "llama", {"llama"}) == "groq/llama"
        assert public_name("groq", "llama", set()) == "llama"
        assert public_name("dev", "echo", set()) == "dev/echo"

    def test_embedding_models_are_told_by_their_names(self):
        assert kind_of("text-embedding-3-small") == "embedding"
        assert kind_of("gpt-4o-mini") == "chat"

    def test_a_misspelt_name_finds_its_neighbours(self):
        names = ["gpt-4o", "gpt-4o-mini", "groq/llama"]

        assert close_names("GPT-4o", names) == ["gpt-4o", "gpt-4o-mini"]
        assert close_names("zzz", names) == []
