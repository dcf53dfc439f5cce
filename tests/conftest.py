"""A simulated plate, its store, a bundle, a model and a server: small, made once for all tests."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from adipocyte.domain import FieldKey
from adipocyte.plate.fields import RawField, write_field
from adipocyte.simulation import simulate_field
from adipocyte.store.reader import Store
from tests.support.plates import SHAPE_PX
from tests.support.stores import prepared

if TYPE_CHECKING:
    from tests.support.served import Server

# What a test costs that asks for a fixture of this name, wherever it is defined.
COSTLY_FIXTURES = {
    "small_server": "server",
    "browser": "browser",
    "database": "database",
    "nodes": "cluster",
}

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the costly fixtures that they ask for, so that none slips into `make test`.

    Files with most of them come first: begun last, one of them would keep a process at work when
    the others have ended.
    """
    for item in items:
        for name in COSTLY_FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(COSTLY_FIXTURES[name])
    n_costly = Counter(item.path for item in items if is_costly(item))
    items.sort(key=lambda item: -n_costly[item.path])


def is_costly(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("slow", *COSTLY_FIXTURES.values()))


WELLS = ("B03", "B04", "C02", "C03")


@pytest.fixture(scope="session")
def small_plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw plate: one field of 96 x 80 pixels in each of four wells, at 20x and at 40x."""
    folder = tmp_path_factory.mktemp("raw") / "plate"
    for magnification in (20, 40):
        for seed, well in enumerate(WELLS):
            field = simulate_field(magnification, SHAPE_PX, seed=(magnification, seed))
            write_field(
                folder, FieldKey(magnification, well, 1), RawField(field.planes, field.targets)
            )
    return folder


@pytest.fixture(scope="session")
def small_store(small_plate: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """`small_plate`, prepared: it trains on C02 and C03, validates on B03, tests on B04."""
    return prepared(small_plate, tmp_path_factory.mktemp("prepared") / "store")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with MLflow's tables, to be copied, because making them takes seconds.

    The artifacts of runs in its copies go to one folder of the session.
    """
    import mlflow

    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for 20x whose small networks nobody trained."""
    from tests.support.bundles import make_bundle  # imports PyTorch, which most tests do without

    return make_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(scope="session")
def small_model(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of `small_bundle`."""
    from tests.support.served import make_model

    return make_model(tmp_path_factory.mktemp("model") / "model", small_bundle)


@pytest.fixture(scope="session")
def compact_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for 20x of one compact network that nobody trained.

    It is loaded ten times faster than `small_bundle`: for tests of what is done with images,
    whatever networks paint them.
    """
    from tests.support.bundles import make_compact_bundle

    return make_compact_bundle(tmp_path_factory.mktemp("compact") / "bundle")


@pytest.fixture(scope="session")
def compact_model(compact_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of `compact_bundle`."""
    from tests.support.served import make_model

    return make_model(tmp_path_factory.mktemp("model") / "model", compact_bundle)


@pytest.fixture(scope="session")
def small_server(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    """`mlflow models serve` over `small_model`."""
    from tests.support.served import serve

    with serve(small_model, tmp_path_factory.mktemp("server") / "log") as server:
        yield server
