"""JSON content has the form that is asked for, or is refused with the name of what has not."""

import pytest

from adipocyte.system.forms import NUMBER, require_form

FORM = {
    "name": str,
    "sizes": [int],
    "range": (NUMBER | None, NUMBER),
    "by": {...: {...: NUMBER}},
    "is": bool,
}
GOOD = {"name": "a", "sizes": [1, 2], "range": [None, 1.5], "by": {"x": {"y": 1}}, "is": True}


def test_what_has_the_form_is_accepted_with_further_keys():
    require_form(GOOD | {"more": []}, FORM, "the file's")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 1),
        ("sizes", "12"),
        ("sizes", ["1"]),
        ("sizes", [True]),
        ("sizes", [10**400]),
        ("range", [1]),
        ("range", [1, None]),
        ("by", []),
        ("by", {"x": 1}),
        ("by", {"x": {"y": "1"}}),
        ("is", 1),
        ("is", None),
    ],
)
def test_what_has_another_form_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=f"the file's '{key}'"):
        require_form(GOOD | {key: value}, FORM, "the file's")


def test_what_is_missing_is_refused_by_name():
    with pytest.raises(ValueError, match="the file's 'name' is not there"):
        require_form({}, FORM, "the file's")
    with pytest.raises(ValueError, match="the file's is not an object"):
        require_form([], FORM, "the file's")
