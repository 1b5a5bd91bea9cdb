"""Errors: one root a floor, each also the builtin that a caller would expect, and each travels between processes."""

from __future__ import annotations

import inspect
import pickle

import pytest

from olmoearth_core import errors
from olmoearth_core.errors import CoreError, DatasetError, ExpectationError

ALL = [c for _name, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]


def test_there_is_one_root() -> None:
    assert [c for c in ALL if not issubclass(c, CoreError)] == []
    assert len(ALL) > 10


@pytest.mark.parametrize("error", ALL)
def test_an_error_says_what_it_was_told_also_after_a_journey(error: type[CoreError]) -> None:
    """Prefect and Dask pickle what a task raised."""
    message = "labels/water.geojson: feature 3 has no class; allowed are land, water."
    made = error(message)
    back = pickle.loads(pickle.dumps(made))
    assert type(back) is error
    assert str(back) == str(made) == message


@pytest.mark.parametrize("error", [c for c in ALL if c is not CoreError])
def test_an_error_is_also_a_builtin_a_caller_may_catch(error: type[CoreError]) -> None:
    assert issubclass(error, ValueError | OSError | RuntimeError)
    assert error.__doc__


def test_a_failed_expectation_is_a_dataset_error() -> None:
    assert issubclass(ExpectationError, DatasetError)
