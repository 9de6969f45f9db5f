"""Settings: variables in, typed values out, and errors that say which variable to mend."""

from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from app.kernel.settings import Csv, Secret, Settings, SettingsError, env, load, variables

HIDDEN = "hunter2hunter2"


class Oven(Settings, frozen=True, rename=env("OVEN")):
    """What every test here reads."""

    heat: Annotated[int, Meta(ge=1, le=300), Meta(description="Degrees.")] = 180
    mode: Literal["air", "grill"] = "air"
    is_clean: bool = True
    speed: float = 1.5
    trays: Csv = Csv(("a", "b"))
    pin: Secret | None = None
    owner: str = msgspec.field(name="OWNER_NAME", default="nobody")
    alarms: dict[str, Secret] = msgspec.field(name="ALARM_*_KEY", default_factory=dict)


class Strict(Settings, frozen=True):
    pin: Secret = msgspec.field(name="PIN")


class TestLoad:
    def test_gives_every_field_its_default(self):
        assert load(Oven, {}) == Oven()

    def test_reads_a_variable_named_after_module_and_field(self):
        oven = load(Oven, {"OVEN_HEAT": "250", "OVEN_MODE": "grill", "OVEN_SPEED": "2"})

        assert (oven.heat, oven.mode, oven.speed) == (250, "grill", 2.0)

    def test_reads_a_variable_of_a_name_of_its_own(self):
        assert load(Oven, {"OWNER_NAME": "Ada"}).owner == "Ada"

    @pytest.mark.parametrize(("text", "value"), [("true", True), ("0", False), ("False", False)])
    def test_reads_a_switch(self, text, value):
        assert load(Oven, {"OVEN_IS_CLEAN": text}).is_clean is value

    def test_splits_a_list_at_its_commas(self):
        assert load(Oven, {"OVEN_TRAYS": " one, two ,,three"}).trays == Csv(("one", "two", "three"))

    def test_collects_a_family_of_variables(self):
        oven = load(Oven, {"ALARM_FRONT_KEY": "1", "ALARM_BACK_DOOR_KEY": "2", "ALARM_KEY": "3"})

        assert oven.alarms == {"front": "1", "back_door": "2"}

    @pytest.mark.parametrize("blank", ["", "  "])
    def test_takes_an_empty_variable_for_unset(self, blank):
        assert load(Oven, {"OVEN_HEAT": blank, "OVEN_PIN": blank}) == Oven()

    def test_ignores_what_no_field_names(self):
        assert load(Oven, {"PATH": "/bin", "OVEN": "x", "heat": "7"}) == Oven()

    @pytest.mark.parametrize(
        ("name", "value", "complaint"),
        [
            ("OVEN_HEAT", "0", "Expected `int` >= 1 - at $.OVEN_HEAT"),
            ("OVEN_HEAT", "hot", "Expected `int`, got `str` - at $.OVEN_HEAT"),
            ("OVEN_MODE", "steam", "Invalid enum value 'steam' - at $.OVEN_MODE"),
            ("OVEN_IS_CLEAN", "perhaps", "Expected `bool`, got `str` - at $.OVEN_IS_CLEAN"),
        ],
    )
    def test_names_the_variable_that_cannot_be_used(self, name, value, complaint):
        with pytest.raises(SettingsError) as caught:
            load(Oven, {name: value})

        assert str(caught.value) == complaint

    def test_names_the_variable_that_is_missing(self):
        with pytest.raises(SettingsError, match="PIN"):
            load(Strict, {})

    def test_shows_no_secret_in_the_error_about_another_variable(self):
        with pytest.raises(SettingsError) as caught:
            load(Oven, {"OVEN_PIN": HIDDEN, "OVEN_HEAT": "hot"})

        assert HIDDEN not in f"{caught.value!r} {caught.value.__context__!r}"


class TestSecret:
    def test_shows_itself_in_no_repr(self):
        oven = load(Oven, {"OVEN_PIN": HIDDEN, "ALARM_FRONT_KEY": HIDDEN})

        assert HIDDEN not in repr(oven)
        assert HIDDEN not in repr([oven.pin])

    def test_is_the_text_it_hides(self):
        oven = load(Oven, {"OVEN_PIN": HIDDEN})

        assert oven.pin == HIDDEN
        assert isinstance(oven.pin, Secret)


class TestVariables:
    def test_lists_every_field_with_its_default(self):
        listed = {variable.name: variable.default for variable in variables(Oven)}

        assert listed == {
            "OVEN_HEAT": "180",
            "OVEN_MODE": "air",
            "OVEN_IS_CLEAN": "True",
            "OVEN_SPEED": "1.5",
            "OVEN_TRAYS": "a,b",
            "OVEN_PIN": "",
            "OWNER_NAME": "nobody",
            "ALARM_<NAME>_KEY": "",
        }

    def test_tells_what_a_variable_is_for(self):
        described = {variable.name: variable.description for variable in variables(Oven)}

        assert described["OVEN_HEAT"] == "Degrees."

    def test_marks_the_secrets(self):
        secret = [variable.name for variable in variables(Oven) if variable.secret]

        assert secret == ["OVEN_PIN", "ALARM_<NAME>_KEY"]
