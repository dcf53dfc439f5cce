"""The form that JSON content must have before it is used."""

from typing import Any

NUMBER = int | float
_LARGEST = 10**15  # of an int: a larger one may be no float


def require_form(value: Any, form: Any, name: str) -> None:
    """Raise ValueError unless the JSON *value*, called *name*, has the *form*.

    A form is a type or a union of types; `[form]`, a list of any length; `(form, form)`, a list of
    that length; `{"key": form}`, an object with these keys at least; `{...: form}`, an object of
    any keys.
    """
    match form:
        case [every] if isinstance(form, list):
            _require(isinstance(value, list), name, "a list")
            for one in value:
                require_form(one, every, f"an item of {name}")
        case tuple():
            _require(
                isinstance(value, list) and len(value) == len(form), name, "a list as expected"
            )
            for one, each in zip(value, form, strict=True):
                require_form(one, each, f"an item of {name}")
        case dict():
            _require(isinstance(value, dict), name, "an object")
            for key in value if ... in form else form:
                _require(key in value, f"{name} {key[:40]!r}", "there")
                require_form(value[key], form.get(key, form.get(...)), f"{name} {key[:40]!r}")
        case _:
            # Python takes True for a number.
            is_it = isinstance(value, form) and isinstance(value, bool) == (form is bool)
            _require(is_it, name, "of the expected type")
            _require(not isinstance(value, int) or abs(value) < _LARGEST, name, "that large")


def _require(is_so: bool, name: str, what: str) -> None:
    if not is_so:
        raise ValueError(f"{name} is not {what}")
