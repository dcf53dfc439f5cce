"""The parameters of a request: their defaults, what they ask for, what is refused."""

import pytest

from adipocyte.delivery.serving.parameters import NAMES, PARAMETERS, Parameters
from adipocyte.errors import ConfigError


def test_the_schema_lists_every_parameter_with_its_default():
    given = [(parameter.name, parameter.dtype.name, parameter.default) for parameter in PARAMETERS]
    assert given == [
        ("histogram_matching", "boolean", None),
        ("targets", "string", ""),
        ("tile_px", "long", 0),
        ("tta", "boolean", False),
        ("measure", "boolean", False),
        ("uncertainty", "boolean", False),
        ("um_per_px", "double", 0.0),
        ("resample", "boolean", False),
        ("on_error", "string", "stop"),
    ]


@pytest.mark.parametrize("params", [None, {}, dict.fromkeys(NAMES)], ids=str)
def test_a_parameter_that_is_missing_or_null_has_its_default(params):
    asked = Parameters.of(params)
    assert asked == Parameters()
    nothing = dict.fromkeys(("targets", "intensities", "tile_px", "level"))
    assert asked.painting == nothing | {"tta": False, "resample": False}
    assert not asked.reports_errors


def test_every_parameter_reaches_the_painting():
    given = {"targets": "A3, A2", "tile_px": 928, "tta": True, "uncertainty": True}
    given |= {"um_per_px": 1, "resample": True}  # JSON may write 1.0 so
    asked = Parameters.of(given | {"on_error": "report"})
    assert asked.painting == {
        "resample": True,
        "targets": ("A3", "A2"),
        "intensities": None,
        "tile_px": 928,
        "tta": True,
        "level": 0.9,
    }
    assert (asked.um_per_px, asked.reports_errors) == (1, True)


@pytest.mark.parametrize(("matching", "intensities"), [(True, "matching"), (False, "none")])
def test_matching_names_the_intensities(matching, intensities):
    assert Parameters.of({"histogram_matching": matching}).intensities == intensities


@pytest.mark.parametrize("size", [-0.1, 101, float("nan")])
def test_an_impossible_size_of_pixels_is_refused(size):
    with pytest.raises(ConfigError, match=r"um_per_px is .*up to 20, or be left out"):
        Parameters.of({"um_per_px": size})


def test_another_word_for_errors_is_refused():
    with pytest.raises(ConfigError, match="on_error must be stop or report, got 'skip'"):
        Parameters.of({"on_error": "skip"})
