"""Settings come from what was given, then the recipe, then the defaults; what cannot be is refused by name."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adipocyte import config
from adipocyte.config import GeneratorConfig, PreprocessConfig, SegmenterConfig, build, listed
from adipocyte.errors import ConfigError

KINDS = [
    kind
    for name, kind in vars(config).items()
    if name.endswith("Config") and dataclasses.is_dataclass(kind)
]
REPORT = {"recipe": "report"}


def test_what_is_given_wins_over_the_recipe_and_the_recipe_over_the_default():
    assert build(SegmenterConfig, {}).batch == 8
    assert build(SegmenterConfig, REPORT).batch == 32
    assert build(SegmenterConfig, {**REPORT, "batch": 5}).batch == 5


def test_the_fast_recipe_is_the_default():
    assert build(GeneratorConfig, {"target": "A2"}) == build(
        GeneratorConfig, {"target": "A2", "recipe": "fast"}
    )


def test_the_report_recipe_has_the_values_of_table_2_1():
    masks = build(PreprocessConfig, {"plate": "plate"})
    assert masks.mask_threshold == 2.0
    segmenter = build(SegmenterConfig, REPORT)
    assert (segmenter.learning_rate, segmenter.batch, segmenter.epochs) == (1e-3, 32, 400)
    assert (segmenter.encoder, segmenter.encoder_weights) == (
        "resnet152",
        "imagenet",
    )  # sections 2.1.1 and 5.2


@pytest.mark.parametrize(
    "given", [(SegmenterConfig, REPORT), (GeneratorConfig, {**REPORT, "target": "A3"})]
)
def test_the_report_recipe_has_the_values_of_table_3_2(given):
    settings = build(*given)
    assert (settings.augment_p, settings.patch_px, settings.rotate_deg) == (0.5, 256, 9)


@pytest.mark.parametrize("target", ["A1", "A2", "A3"])
def test_the_report_recipe_has_the_values_of_table_5_1(target):
    generator = build(GeneratorConfig, {**REPORT, "target": target})
    assert (generator.learning_rate, generator.discriminator_learning_rate) == (1e-3, 1e-5)
    assert (generator.encoder, generator.encoder_weights) == ("resnet152", "imagenet")
    assert (
        generator.batch,
        generator.epochs,
        generator.constant_epochs,
        generator.mask_source,
    ) == (16, 200, 100, "true")


def test_a_missing_setting_is_refused_with_the_words_to_type():
    with pytest.raises(
        ConfigError,
        match=r"'target' is missing \(Channel to paint.*\): give it with -P target=<value>",
    ):
        build(GeneratorConfig, REPORT)


def test_an_unknown_setting_is_refused_with_the_known_ones():
    with pytest.raises(
        ConfigError,
        match="no setting 'batch_size'; the settings are recipe, store, architecture, encoder",
    ):
        build(SegmenterConfig, {"batch_size": 16})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch", 0, "batch must be at least 1, got 0"),
        ("augment_p", 1.5, "augment_p must be between 0 and 1, got 1.5"),
        ("rotate_deg", -1.0, "rotate_deg must be between 0 and 180, got -1.0"),
        ("learning_rate", float("nan"), "learning_rate must be at least 0, got nan"),
        (
            "recipe",
            "slow",
            "recipe must be one of fast, report, stable, got 'slow': -P recipe=fast",
        ),
        ("precision", "16", "precision must be one of auto, 32, bf16, got '16'"),
        ("epochs", "8", "epochs must be int, got '8'"),
        ("patch_px", 100, "patch_px must be a multiple of 32, got 100: -P patch_px=96"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_can(name, value, message):
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        build(SegmenterConfig, {name: value})


@given(
    epochs=st.integers(1, 1000),
    recipe=st.sampled_from(config.RECIPES),
    learning_rate=st.floats(0, 1) | st.integers(0, 1),
)
def test_a_config_is_made_again_from_its_own_settings(epochs, recipe, learning_rate):
    made = build(
        SegmenterConfig, {"recipe": recipe, "epochs": epochs, "learning_rate": learning_rate}
    )
    assert build(SegmenterConfig, dataclasses.asdict(made)) == made


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_says_what_it_is_and_its_recipes_exist(kind):
    for field in dataclasses.fields(kind):
        assert field.metadata["help"].endswith((".", ")")), field.name
        assert field.metadata["recipes"].keys() <= set(config.RECIPES), field.name


def test_what_a_recipe_does_not_state_it_takes_from_the_one_it_is_built_on():
    fast, report, stable = (
        build(GeneratorConfig, {"target": "A1", "recipe": recipe})
        for recipe in ("fast", "report", "stable")
    )
    assert (fast.encoder, report.encoder, stable.encoder) == ("resnet18", "resnet152", "resnet152")
    assert (report.mask_source, stable.mask_source) == ("true", "mixed")


def test_a_list_of_wells_may_have_spaces_and_be_empty():
    assert listed(" B03, B04,,") == ("B03", "B04")
    assert listed("") == ()
