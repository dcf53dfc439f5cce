"""Register a model and get killed with SIGKILL at each of some places: `test_register.py` runs it.

Arguments: store, runs as JSON, name, places. Each try is a process of its own, forked before
anything was opened.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from adipocyte.config import RegisterConfig
from adipocyte.delivery.models import register as registry
from adipocyte.delivery.runs.runs import step_run
from adipocyte.store.reader import Store


def die(*_: Any, **__: Any) -> None:
    """Die without time to tidy up."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_upload(event: str, arguments: tuple) -> None:
    """Die when the logged model has been copied among MLflow's artifacts up to its weights."""
    if event != "shutil.copyfile":
        return
    target = str(arguments[1])
    if f"{os.sep}models{os.sep}m-" in target and target.endswith(".safetensors"):
        die()


def arm(place: str) -> None:
    """Die in the "upload" of the logged model, or before the client's method that *place* names."""
    if place == "upload":
        sys.addaudithook(die_in_upload)
    else:
        setattr(MlflowClient, place, die)


def main(folder: str, runs: str, name: str, *places: str) -> None:
    """Try at each of *places*; fail when one was not reached."""
    for place in places:
        child = os.fork()
        if child == 0:
            arm(place)
            store, config = Store(Path(folder)), RegisterConfig(name=name, workers=0)
            with step_run("register", config, store=store.digest):
                registry.register(store, json.loads(runs), config)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, place


if __name__ == "__main__":
    main(*sys.argv[1:])
