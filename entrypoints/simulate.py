"""`mlflow run . -e simulate`: write a raw plate of simulated fat cells."""

import json
import re
import shlex
from functools import partial
from itertools import product

from adipocyte.config import SimulateConfig, listed, plain
from adipocyte.domain import ROWS, UM_PER_PX
from adipocyte.errors import ConfigError
from adipocyte.system.files import write_whole
from adipocyte.system.processes import each
from entrypoints.command import command


@command(SimulateConfig)
def simulate(config: SimulateConfig) -> None:
    """Write a raw plate of simulated fat cells in the challenge's own layout and names."""
    from tqdm import tqdm

    from adipocyte.delivery.runs.runs import step_run

    wells = enumerate(_wells(config))
    fields = list(product(_magnifications(config), wells, range(1, config.fovs + 1)))
    _claim(config)
    with step_run("simulate", config):
        done = each(partial(_simulate, config), fields, min(config.workers, len(fields)))
        for _ in tqdm(done, total=len(fields), desc="simulate", unit="field"):
            pass
    setting = shlex.quote(f"plate={config.out}")
    print(f"{len(fields)} fields in {config.out}. Next: mlflow run . -P {setting}")


def _simulate(config: SimulateConfig, field: tuple[int, tuple[int, str], int]) -> None:
    """Write the *field* of a magnification, a well (its number and name) and a site."""
    from adipocyte.domain import FieldKey
    from adipocyte.plate.fields import RawField, write_field
    from adipocyte.simulation import (
        Conditions,
        draw_any_conditions,
        draw_conditions,
        draw_instrument,
        misalignment_at,
        simulate_field,
    )

    magnification, (number, well), fov = field
    shift, conditions, instrument = None, Conditions(), None
    if config.misalignment == "measured":
        shift = misalignment_at(magnification, fov, config.fovs)
    if config.batch_effect == "wells":
        conditions = draw_conditions((config.seed, number))
    if config.batch_effect == "laboratories":
        conditions = draw_any_conditions((config.seed, number, 1))
        instrument = draw_instrument(magnification, (config.seed, number, magnification))
    simulated = simulate_field(
        magnification,
        (config.height_px, config.width_px),
        seed=(config.seed, magnification, number, fov),
        misalignment=shift,
        conditions=conditions,
        instrument=instrument,
    )
    write_field(
        config.out,
        FieldKey(magnification, well, fov),
        RawField(simulated.planes, simulated.targets),
        instrument.optics.um_per_px if instrument else None,
    )


def _magnifications(config: SimulateConfig) -> list[int]:
    known = [str(magnification) for magnification in UM_PER_PX]
    if not (wanted := listed(config.magnifications)) or set(wanted) - set(known):
        raise ConfigError(
            f"magnifications must be of {', '.join(known)}, got {config.magnifications!r}",
            "-P magnifications=20,40",
        )
    return [int(magnification) for magnification in wanted]


def _wells(config: SimulateConfig) -> tuple[str, ...]:
    wells = listed(config.wells)
    known = re.compile(rf"({'|'.join(ROWS)})[0-9]{{2}}")
    if not wells or not all(map(known.fullmatch, wells)):
        raise ConfigError(
            f"wells must be a row, A to AF, and two digits each, got {config.wells!r}",
            "-P wells=B03,B04,C02",
        )
    return wells


def _claim(config: SimulateConfig) -> None:
    """Write down which settings made the plate.

    Refuses a folder of other images, because raw data is never overwritten.
    """
    out, label = config.out, config.out / "simulation.json"
    settings = {name: value for name, value in plain(config).items() if name != "workers"}
    content = json.dumps(settings, indent=1).encode()
    is_same = label.is_file() and label.read_bytes() == content
    if not is_same and out.exists() and any(out.iterdir()):
        raise ConfigError(
            f"{out} does not hold this simulation but something else",
            "name another folder with -P out=<folder>, or remove it",
        )
    write_whole(label, content)


if __name__ == "__main__":
    simulate()
