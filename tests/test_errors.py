"""An error keeps what was found and the remedy, as one paragraph and across processes."""

import inspect
import pickle

import pytest

from adipocyte import errors
from adipocyte.errors import AdipocyteError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("found", ["run: 2 is empty", "two\nlines", ""])
@pytest.mark.parametrize("remedy", ["copy it again: whole", ""])
def test_an_error_keeps_both_parts_wherever_it_goes(kind, found, remedy):
    for error in (kind(found, remedy), pickle.loads(pickle.dumps(kind(found, remedy)))):
        assert (type(error), error.found, error.remedy) == (kind, found, remedy)
        assert str(error) == (f"{found}: {remedy}" if remedy else found)
        assert isinstance(error, AdipocyteError)


def test_an_error_may_say_it_all_in_one_part():
    error = AdipocyteError("the run was stopped")
    assert (error.found, error.remedy, str(error)) == (error.args[0], "", "the run was stopped")
