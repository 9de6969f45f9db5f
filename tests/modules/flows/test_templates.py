"""Templates: what is put in, and what is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.flows.domain import templates
from app.modules.flows.domain.templates import (
    TemplateFailed,
    TemplateInvalid,
    fill,
    names_of,
)

VALUES = {
    "name": "Anna",
    "count": 3,
    "is_new": True,
    "nothing": None,
    "order": {"items": [{"id": "x-1"}, {"id": "x-2"}]},
    "ask-me": {"text": "yes"},
}
BROKEN = [
    "{",
    "}",
    "{}",
    "a {b",
    "a } b",
    "{a b}",
    '{"a": 1}',
    "{a.}",
    "{.a}",
    "{a!r}",
    "{a:>9}",
    "{a[0]}",
]


class TestFill:
    @pytest.mark.parametrize(
        ("template", "text"),
        [
            ("", ""),
            ("no names", "no names"),
            ("Hello {name}!", "Hello Anna!"),
            ("{name}{name}", "AnnaAnna"),
            ("{count} {is_new} {nothing}", "3 true null"),
            ("{order.items.1.id}", "x-2"),
            ("{order.items}", '[{"id":"x-1"},{"id":"x-2"}]'),
            ("{ask-me.text}", "yes"),
            ("{{name}} is {name}", "{name} is Anna"),
            ('{{"a": {count}}}', '{"a": 3}'),
            ("{{{name}}}", "{Anna}"),
            ("line\n{name}\n", "line\nAnna\n"),
        ],
    )
    def test_puts_texts_as_they_are_and_the_rest_as_json(self, template, text):
        assert fill(template, VALUES) == text

    def test_does_not_read_again_what_it_put_in(self):
        assert fill("{a}", {"a": "{b} {{", "b": "secret"}) == "{b} {{"

    @pytest.mark.parametrize(
        "path",
        ["missing", "name.x", "order.items.2", "order.items.-1", "order.items.x", "nothing.x"],
    )
    def test_names_what_is_missing(self, path):
        with pytest.raises(TemplateFailed) as caught:
            fill("{name} {" + path + "}", VALUES)

        assert caught.value.extra == {"missing": path}
        assert path in str(caught.value)

    @pytest.mark.parametrize("path", ["__class__", "name.__class__", "order.__len__", "name.upper"])
    def test_looks_members_up_and_no_attributes(self, path):
        with pytest.raises(TemplateFailed):
            fill("{" + path + "}", VALUES)

    def test_makes_as_much_as_it_may(self):
        text = "x" * templates.RESULT_LIMIT_BYTES

        assert fill("{a}", {"a": text}) == text

    @pytest.mark.parametrize("template", ["{a}.", "{a}{a}", "{b}"])
    def test_refuses_to_make_more(self, template):
        values = {"a": "x" * templates.RESULT_LIMIT_BYTES, "b": "ä" * templates.RESULT_LIMIT_BYTES}

        with pytest.raises(TemplateFailed, match="bytes"):
            fill(template, values)

    @given(st.text())
    def test_any_text_is_put_in_as_it_is(self, text):
        assert fill("<{a}>", {"a": text}) == f"<{text}>"

    @given(st.text())
    def test_any_text_comes_through_when_its_braces_are_doubled(self, text):
        assert fill(text.replace("{", "{{").replace("}", "}}"), {}) == text


class TestNamesOf:
    def test_tells_each_path_once_in_its_order(self):
        assert names_of("{b} {a.b.0} {{c}} {b}") == ("b", "a.b.0")

    @pytest.mark.parametrize("template", BROKEN)
    def test_refuses_a_brace_that_begins_or_ends_nothing(self, template):
        with pytest.raises(TemplateInvalid, match="Write it twice"):
            names_of(template)

    @given(st.text(alphabet="ab{}. "))
    def test_takes_what_can_be_filled_and_nothing_else(self, template):
        try:
            names = names_of(template)
        except TemplateInvalid:
            with pytest.raises((TemplateInvalid, TemplateFailed)):
                fill(template, {})
            return

        if names:
            with pytest.raises(TemplateFailed):
                fill(template, {})
        else:
            assert isinstance(fill(template, {}), str)
