"""`mlflow run . -e simulate`: write a raw plate of simulated fat cells."""

import json
import re

from adipocyte.config import SimulateConfig, listed, plain
from adipocyte.domain import MAGNIFICATIONS
from adipocyte.errors import ConfigError
from entrypoints.command import command


@command(SimulateConfig)
def simulate(config: SimulateConfig) -> None:
    """Write a raw plate of simulated fat cells in the challenge's own layout and names."""
    from itertools import product

    from tqdm import tqdm

    from adipocyte.delivery.runs.runs import step_run
    from adipocyte.domain import FieldKey
    from adipocyte.plate.fields import RawField, write_field
    from adipocyte.simulation import Conditions, draw_conditions, misalignment_at, simulate_field

    fields = list(
        product(_magnifications(config), enumerate(_wells(config)), range(1, config.fovs + 1))
    )
    _claim(config)
    with step_run("simulate", config):
        for magnification, (number, well), fov in tqdm(fields, desc="simulate", unit="field"):
            shift = (
                misalignment_at(magnification, fov, config.fovs)
                if config.misalignment == "measured"
                else None
            )
            shape_px, seed = (
                (config.height_px, config.width_px),
                (config.seed, magnification, number, fov),
            )
            conditions = (
                draw_conditions((config.seed, number))
                if config.batch_effect == "wells"
                else Conditions()
            )
            field = simulate_field(
                magnification, shape_px, seed=seed, misalignment=shift, conditions=conditions
            )
            write_field(
                config.out,
                FieldKey(magnification, well, fov),
                RawField(field.planes, field.targets),
            )
    print(f"{len(fields)} fields in {config.out}. Next: mlflow run . -P plate={config.out}")


def _magnifications(config: SimulateConfig) -> list[int]:
    known = [str(magnification) for magnification in MAGNIFICATIONS]
    if not (wanted := listed(config.magnifications)) or set(wanted) - set(known):
        raise ConfigError(
            f"magnifications must be of {', '.join(known)}, got {config.magnifications!r}: -P magnifications=20,40"
        )
    return [int(magnification) for magnification in wanted]


def _wells(config: SimulateConfig) -> tuple[str, ...]:
    wells = listed(config.wells)
    if not wells or not all(re.fullmatch("[A-P][0-9]{2}", well) for well in wells):
        raise ConfigError(
            f"wells must be a letter A to P and two digits each, got {config.wells!r}: -P wells=B03,B04,C02"
        )
    return wells


def _claim(config: SimulateConfig) -> None:
    """Write down which settings made the plate; refuse a folder of other images, for raw data is never written over."""
    out, label, content = (
        config.out,
        config.out / "simulation.json",
        json.dumps(plain(config), indent=1),
    )
    if (
        out.exists()
        and any(out.iterdir())
        and not (label.is_file() and label.read_text() == content)
    ):
        raise ConfigError(
            f"{out} holds something else than this simulation: name another folder with -P out=<folder>, or remove it"
        )
    out.mkdir(parents=True, exist_ok=True)
    label.write_text(content)


if __name__ == "__main__":
    simulate()
