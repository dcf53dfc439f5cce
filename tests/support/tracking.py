"""Where MLflow keeps the runs of a test."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlflow


@contextmanager
def tracked_at(uri: str) -> Iterator[None]:
    """Runs go to *uri* inside, and afterwards where they went before.

    Where no address was set, none is set afterwards: MLflow's answer to where runs go by default is
    a database in the folder of that moment, which would be left to the next test of this process.
    """
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
