"""Settings come from what was given, then the recipe, then the defaults; others are refused."""

import dataclasses
import json
import re
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adipocyte import config
from adipocyte.config import (
    EvaluateConfig,
    GeneratorConfig,
    PreprocessConfig,
    RegisterConfig,
    SegmenterConfig,
    StainConfig,
    as_recorded,
    build,
    choices,
    listed,
    plain,
    spelled,
)
from adipocyte.domain import TARGETS, Intensities
from adipocyte.errors import ConfigError

KINDS = [
    kind
    for name, kind in vars(config).items()
    if name.endswith("Config") and dataclasses.is_dataclass(kind)
]
REPORT = {"recipe": "report"}
# Of the kinds that have them.
REQUIRED = {"plate": "raw", "target": "A2", "images": "stained", "before": "/old"}


def built(kind: type, **given: object):
    """A *kind* with what it requires, and what is *given*."""
    names = {field.name for field in dataclasses.fields(kind)}
    return build(kind, {name: REQUIRED[name] for name in REQUIRED.keys() & names} | given)


# Where a value comes from.


def test_what_is_given_wins_over_the_recipe_and_the_recipe_over_the_default():
    assert build(SegmenterConfig, {}).batch == 8
    assert build(SegmenterConfig, REPORT).batch == 32
    assert build(SegmenterConfig, {**REPORT, "batch": 5}).batch == 5


def test_the_fast_recipe_is_the_default():
    assert built(GeneratorConfig) == built(GeneratorConfig, recipe="fast")


def test_a_recipe_takes_what_it_does_not_state_from_the_one_that_it_is_built_on():
    fast, report, stable = (
        build(GeneratorConfig, {"target": "A1", "recipe": recipe})
        for recipe in ("fast", "report", "stable")
    )
    assert (fast.encoder, report.encoder, stable.encoder) == ("resnet18", "resnet152", "resnet152")
    assert (report.mask_source, stable.mask_source) == ("true", "mixed")


def test_the_report_recipe_has_the_values_of_table_2_1():
    masks = build(PreprocessConfig, {"plate": "plate"})
    assert masks.mask_threshold == 2.0
    segmenter = build(SegmenterConfig, REPORT)
    assert (segmenter.learning_rate, segmenter.batch, segmenter.epochs) == (1e-3, 32, 400)
    encoder = (segmenter.encoder, segmenter.encoder_weights)
    assert encoder == ("resnet152", "imagenet")  # sections 2.1.1 and 5.2


@pytest.mark.parametrize("kind", [SegmenterConfig, GeneratorConfig])
def test_the_report_recipe_has_the_values_of_table_3_2(kind):
    settings = built(kind, recipe="report")
    assert (settings.augment_p, settings.patch_px, settings.rotate_deg) == (0.5, 256, 9)


@pytest.mark.parametrize("target", TARGETS)
def test_the_report_recipe_has_the_values_of_table_5_1(target):
    generator = build(GeneratorConfig, {**REPORT, "target": target})
    assert (generator.learning_rate, generator.discriminator_learning_rate) == (1e-3, 1e-5)
    assert (generator.encoder, generator.encoder_weights) == ("resnet152", "imagenet")
    assert (generator.batch, generator.mask_source) == (16, "true")
    assert (generator.epochs, generator.constant_epochs) == (200, 100)


# Refusals.


def test_a_missing_setting_is_refused_with_the_words_to_type():
    with pytest.raises(
        ConfigError,
        match=r"'target' is missing \(What to paint.*\): give it with -P target=<value>",
    ):
        build(GeneratorConfig, REPORT)


def test_an_unknown_setting_is_refused_with_the_known_ones():
    with pytest.raises(
        ConfigError,
        match="no setting 'batch_size': the settings are recipe, store, architecture, encoder",
    ):
        build(SegmenterConfig, {"batch_size": 16})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch", 0, "batch must be between 1 and 4096, got 0: -P batch=1"),
        ("augment_p", 1.5, "augment_p must be between 0 and 1, got 1.5: -P augment_p=1"),
        ("rotate_deg", -1.0, "rotate_deg must be between 0 and 180, got -1.0: -P rotate_deg=0"),
        ("learning_rate", float("nan"), "learning_rate must be between 0 and 1000, got nan"),
        (
            "recipe",
            "slow",
            "recipe must be one of fast, report, stable, shared, got 'slow': -P recipe=fast",
        ),
        ("precision", "16", "precision must be one of auto, 32, bf16, got '16'"),
        ("epochs", "8", "epochs must be a whole number, got '8': -P epochs=<value>"),
        ("epochs", 8.0, "epochs must be a whole number, got 8.0"),
        ("epochs", True, "epochs must be a whole number, got True"),
        ("learning_rate", "0.1", "learning_rate must be a number, got '0.1'"),
        ("learning_rate", False, "learning_rate must be a number, got False"),
        ("compile", "maybe", "compile must be true or false, got 'maybe'"),
        ("compile", 1, "compile must be true or false, got 1"),
        ("resume", None, "resume must be text, got None"),
        ("store", None, "store must be a path, got None"),
        ("patch_px", 100, "patch_px must be a multiple of 32, got 100: -P patch_px=96"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_can(name, value, message):
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        build(SegmenterConfig, {name: value})


@pytest.mark.parametrize("name", ["", "lab/adipocyte", "a:b"])
def test_a_name_that_the_registry_cannot_hold_is_refused(name):
    with pytest.raises(ConfigError, match=r"without / or :, got .*: -P name=adipocyte"):
        build(RegisterConfig, {"name": name})


# Settings as text, and back.


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *dict.fromkeys(("true", "on", "yes", "1", "True", "YES"), True).items(),
        *dict.fromkeys(("false", "off", "no", "0", "False", "Off"), False).items(),
    ],
)
def test_a_switch_takes_every_word_for_true_and_false(word, meant):
    assert built(StainConfig, tta=word).tta is meant
    assert built(StainConfig, compile=word).compile == spelled(meant)  # a switch with "auto"


def test_a_switch_may_be_a_switch_already():
    assert build(SegmenterConfig, {"compile": True}).compile is True
    assert built(StainConfig, compile="auto").compile == "auto"


def test_paths_may_be_text_and_an_optional_one_empty():
    settings = build(EvaluateConfig, {"store": "a/b", "truth": "t", "prediction": ""})
    assert settings.store == Path("a/b")
    assert (settings.truth, settings.prediction) == (Path("t"), None)
    assert build(EvaluateConfig, {"store": Path("c")}).store == Path("c")


def test_a_path_may_begin_with_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    config = built(PreprocessConfig, plate="~/plates/one", align="~/alignment.json")
    assert (config.plate, config.align) == (
        Path("/home/ada/plates/one"),
        "/home/ada/alignment.json",
    )
    assert built(StainConfig, plate="~nobody-of-that-name/p").plate == Path(
        "~nobody-of-that-name/p"
    )
    assert built(StainConfig, plate="a~/b", out="~").out == "~"


def test_an_empty_path_is_the_folder_one_is_in():
    assert build(SegmenterConfig, {"store": ""}).store == Path()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (None, ""),
        (Path("a/b"), "a/b"),
        (0, "0"),
        (0.5, "0.5"),
        ("A1", "A1"),
    ],
)
def test_a_value_is_spelled_as_it_is_typed(value, text):
    assert spelled(value) == text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_config_is_made_again_from_its_settings_in_json(kind):
    made = built(kind)
    assert build(kind, json.loads(json.dumps(plain(made)))) == made


def test_plain_settings_keep_numbers_and_switches():
    settings = plain(built(StainConfig, tta=True))
    assert (settings["plate"], settings["tta"], settings["tile_px"]) == ("raw", True, 0)
    assert plain(build(EvaluateConfig, {}))["truth"] == ""


@given(
    epochs=st.integers(1, 1000),
    recipe=st.sampled_from(config.choices(config.Recipe)),
    learning_rate=st.floats(0, 1) | st.integers(0, 1),
)
def test_a_config_is_made_again_from_its_own_settings(epochs, recipe, learning_rate):
    made = build(
        SegmenterConfig, {"recipe": recipe, "epochs": epochs, "learning_rate": learning_rate}
    )
    assert build(SegmenterConfig, dataclasses.asdict(made)) == made


def test_a_list_of_wells_may_have_spaces_and_be_empty():
    assert listed(" B03, B04,,") == ("B03", "B04")
    assert listed("") == ()


# Settings of earlier versions.


def test_retired_settings_with_the_value_that_training_has_now_are_dropped():
    found = as_recorded(SegmenterConfig, {"batch": 5, **config.RETIRED})
    assert found == {"batch": 5}
    assert build(SegmenterConfig, found).batch == 5


@pytest.mark.parametrize("name", config.RETIRED)
def test_a_retired_setting_with_another_value_is_refused(name):
    with pytest.raises(ConfigError, match=rf"^{name}=other is a setting of an earlier version: "):
        as_recorded(SegmenterConfig, {name: "other"})


def test_what_is_a_setting_still_is_kept_for_its_kind():
    settings = {"augmentations": "microscope", "r1_weight": 0.0}
    found = as_recorded(GeneratorConfig, settings)
    assert found == {"augmentations": "microscope", **config.LATER}


def test_what_was_no_setting_yet_is_as_it_was_whatever_the_recipe_says_today():
    old = build(GeneratorConfig, as_recorded(GeneratorConfig, {"target": "A2", "recipe": "shared"}))
    assert old.finest_um_per_px == 0
    own = {"target": "A2", "finest_um_per_px": 0.65}
    assert as_recorded(GeneratorConfig, own) == own


def test_one_retired_setting_is_a_setting_again_and_of_generators_alone():
    names = {kind: {field.name for field in dataclasses.fields(kind)} for kind in KINDS}
    again = {kind: own & config.RETIRED.keys() for kind, own in names.items()}
    assert {kind: own for kind, own in again.items() if own} == {GeneratorConfig: {"augmentations"}}


# Laws of the declarations.


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_says_what_it_is_and_its_recipes_exist(kind):
    for field in dataclasses.fields(kind):
        assert field.metadata["help"].endswith((".", ")")), field.name
        assert field.metadata["recipes"].keys() <= set(config.choices(config.Recipe)), field.name


def test_choices_are_the_facts_of_the_field():
    stain = get_type_hints(StainConfig)
    assert set(choices(stain["intensities"])) == {"kept", *Intensities}
    [target] = [one for one in dataclasses.fields(GeneratorConfig) if one.name == "target"]
    assert target.metadata["among"] == TARGETS
