"""`mlflow run . -e simulate`: write a raw plate of simulated fat cells."""

from pathlib import Path

from adipocyte.config import SimulateConfig, listed
from entrypoints.command import command


@command(SimulateConfig)
def simulate(config: SimulateConfig) -> None:
    """Write a raw plate of simulated fat cells in the challenge's own layout and names."""
    from itertools import product

    from tqdm import tqdm

    from adipocyte.delivery.tracking import step_run
    from adipocyte.plate.reader import FieldKey, RawField, write_field
    from adipocyte.simulation import misalignment_at, simulate_field

    magnifications = [int(magnification) for magnification in listed(config.magnifications)]
    fields = list(product(magnifications, enumerate(listed(config.wells)), range(1, config.fovs + 1)))
    with step_run("simulate", config):
        for magnification, (number, well), fov in tqdm(fields, desc="simulate", unit="field"):
            shift = misalignment_at(magnification, fov, config.fovs) if config.misalignment == "measured" else None
            shape_px, seed = (config.height_px, config.width_px), (config.seed, magnification, number, fov)
            field = simulate_field(magnification, shape_px, seed=seed, misalignment=shift)
            write_field(Path(config.out), FieldKey(magnification, well, fov), RawField(field.planes, field.targets))
    print(f"{len(fields)} fields in {config.out}. Next: mlflow run . -P plate={config.out}")


if __name__ == "__main__":
    simulate()
