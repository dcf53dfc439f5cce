"""The split by well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adipocyte.domain import TARGETS, FieldKey
from adipocyte.errors import ConfigError, PlateError
from adipocyte.preparation.split import (
    FEW_WELLS,
    PARTS,
    rare_stains,
    split_wells,
    without_stains,
)

WELLS = [f"{row}{column:02d}" for row in "ABCP" for column in (1, 2, 24)]


@given(
    wells=st.lists(st.sampled_from(WELLS), min_size=2, unique=True),
    named=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_a_split_covers_the_wells_disjointly_honours_the_named_and_repeats(
    wells, named, seed, data
):
    order = data.draw(st.permutations(wells))
    validation, test = order[: named[0]], order[named[0] : sum(named)]
    # Parts that are not named: a quarter of the wells for test, an eighth for validation, at least
    # one each.
    n_test = len(test) or max(1, round(len(wells) / 4))
    n_validation = len(validation) or (
        max(1, round(len(wells) / 8)) if len(wells) >= FEW_WELLS else 0
    )
    if n_test + n_validation >= len(wells):
        with pytest.raises(PlateError, match=r"no well of \d+ is left to train on"):
            split_wells(wells, validation, test, seed)
        return
    split = split_wells(wells, validation, test, seed)
    assert tuple(split) == PARTS
    assert (len(split["test"]), len(split["validation"])) == (n_test, n_validation or n_test)
    assert set().union(*split.values()) == set(wells)
    assert not set(split["train"]) & {*split["validation"], *split["test"]}
    if n_validation:
        assert not set(split["validation"]) & set(split["test"])
    for part, wanted in (("validation", validation), ("test", test)):
        assert not wanted or split[part] == tuple(sorted(wanted))
    assert split_wells(data.draw(st.permutations(wells)), validation, test, seed) == split


@pytest.mark.parametrize("n_wells", [2, 3, 4])
@given(seed=st.integers(0, 2**32))
def test_with_few_wells_one_validates_and_tests_and_all_others_train(n_wells, seed):
    split = split_wells(WELLS[:n_wells], (), (), seed)
    assert split["validation"] == split["test"]
    assert len(split["test"]) == 1
    assert sorted([*split["train"], *split["test"]]) == sorted(WELLS[:n_wells])


def test_the_eight_wells_of_the_challenge_split_in_five_one_and_two():
    wells = ["B03", "B04", "C02", "C03", "C04", "D02", "D03", "D04"]
    splits = [split_wells(wells * 6, (), (), seed) for seed in range(20)]
    assert {tuple(map(len, split.values())) for split in splits} == {(5, 1, 2)}
    assert len({split["test"] for split in splits}) > 5
    report = split_wells(wells, ("B03",), ("B04",), 0)
    assert report["train"] == ("C02", "C03", "C04", "D02", "D03", "D04")


@given(seed=st.integers(0, 2**32), having=st.sets(st.sampled_from(WELLS), min_size=3))
def test_each_part_has_a_stain_that_only_some_wells_have(seed, having):
    stains = {
        FieldKey(20, well, fov): TARGETS if well in having and fov == 2 else ("A1", "A3")
        for well in WELLS
        for fov in (1, 2)
    }
    rare = rare_stains(stains)
    assert rare == ({(20, "A2"): having})
    split = split_wells(WELLS, (), (), seed, rare)
    assert all(having & set(wells) for wells in split.values())
    assert without_stains(split, rare) == ""
    assert split == split_wells(WELLS[::-1], (), (), seed, rare)
    plain = split_wells(WELLS, (), (), seed)
    assert {part: len(wells) for part, wells in split.items()} == {
        part: len(wells) for part, wells in plain.items()
    }
    assert split == plain or not all(having & set(wells) for wells in plain.values())


def test_stains_that_all_fields_of_a_magnification_have_draw_no_other_split():
    assert not rare_stains({FieldKey(20, "B03", 1): TARGETS, FieldKey(40, "B04", 1): ("A1",)})


def test_named_wells_are_taken_as_named_and_a_stain_that_they_lack_is_told():
    rare = {(20, "A2"): {"A01", "A02", "B01"}}
    split = split_wells(WELLS, ("A24",), ("C01", "C02"), 0, rare)
    assert (split["validation"], split["test"]) == (("A24",), ("C01", "C02"))
    assert without_stains(split, rare) == (
        "No field of the validation wells A24 has A2 at 20x; "
        "no field of the test wells C01, C02 has A2 at 20x."
    )


def test_a_well_named_twice_counts_once():
    assert split_wells(["B03", "B04", "C02"], ("B03", "B03"), (), 0)["validation"] == ("B03",)


@pytest.mark.parametrize(
    ("wells", "validation", "test", "error", "message"),
    [
        (["B03"], (), (), PlateError, r"the plate has one well \(B03\): two are needed"),
        (
            ["B03", "B04"],
            ("E05",),
            (),
            ConfigError,
            "well E05 is not on the plate: its wells are B03, B04",
        ),
        (
            ["B03", "B04"],
            ("B03",),
            ("B03",),
            ConfigError,
            "B03 stand in validation_wells and in test_wells",
        ),
        (
            ["B03", "B04"],
            ("B03",),
            ("B04",),
            PlateError,
            r"no well of 2 is left to train on \(validation: B03; test: B04\): name fewer",
        ),
        (
            ["B03", "B04", "C02"],
            ("B03", "B04", "C02"),
            (),
            PlateError,
            "no well of 3 is left to train on",
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused(wells, validation, test, error, message):
    with pytest.raises(error, match=message):
        split_wells(wells, validation, test, 0)
