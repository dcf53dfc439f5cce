"""Every setting of every entry point, stated once: name, type, help, range, default and what each recipe makes of it.

`entrypoints/command.py` derives the command lines from these classes; a test holds MLproject to them.
Networks, losses and the chain take plain arguments and never see a config.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, get_type_hints

from adipocyte.errors import ConfigError

TARGETS = ("A1", "A2", "A3")
TARGET_NAMES = {"A1": "nuclei", "A2": "lipid droplets", "A3": "cytoplasm"}
MAGNIFICATIONS = (20, 40, 60)
UM_PER_PX = {20: 0.325, 40: 0.163, 60: 0.108}  # not published; these fit the instrument
N_Z_PLANES = 7

RECIPES = ("fast", "report")

Config = TypeVar("Config")


def option(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    choices: tuple[Any, ...] = (),
    low: float | None = None,
    high: float | None = None,
    multiple: int = 1,
    without: str = "",
    **recipes: Any,
) -> Any:
    """Declare a setting: from *low* to *high*, both inclusive, in steps of *multiple*; text that is not empty, *without* some
    characters.

    `report=…` is its value under that recipe.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "low": low,
        "high": high,
        "multiple": multiple,
        "without": without,
        "recipes": recipes,
    }
    return dataclasses.field(default=default, metadata=metadata)


def build(kind: type[Config], given: dict[str, Any]) -> Config:
    """Make a *kind* from what was *given*, the rest from its recipe (where it has one), the rest from the defaults.

    Raises ConfigError when a name is unknown, a value is missing or lies outside its range.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in given.keys() - fields.keys():
        raise ConfigError(f"there is no setting {name!r}; the settings are {', '.join(fields)}")
    recipe = given.get("recipe", fields["recipe"].default if "recipe" in fields else None)
    values = {name: field.metadata["recipes"][recipe] for name, field in fields.items() if recipe in field.metadata["recipes"]}
    values.update(given)
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in values:
            raise ConfigError(f"the setting {name!r} is missing ({field.metadata['help']}): give it with -P {name}=<value>")
    config = kind(**values)
    check(config)
    return config


def check(config: Any) -> None:
    """Raise ConfigError where a value of *config* is not of its type, not among its choices or out of its range."""
    types = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, allowed = getattr(config, field.name), field.metadata["choices"]
        low, high = field.metadata["low"], field.metadata["high"]
        if not isinstance(value, (int, float) if types[field.name] is float else types[field.name]):
            raise ConfigError(f"{field.name} must be {types[field.name].__name__}, got {value!r}")
        if allowed and value not in allowed:
            raise ConfigError(f"{field.name} must be one of {', '.join(map(str, allowed))}, got {value!r}: -P {field.name}={allowed[0]}")
        if (low is not None and not value >= low) or (high is not None and not value <= high):  # refuses NaN too
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            nearest = high if high is not None and value > high else low
            raise ConfigError(f"{field.name} must be {bounds}, got {value}: -P {field.name}={nearest}")
        if (without := field.metadata["without"]) and (not value or set(value) & set(without)):
            raise ConfigError(f"{field.name} must be a name without {' or '.join(without)}, got {value!r}: -P {field.name}={field.default}")
        if (multiple := field.metadata["multiple"]) > 1 and value % multiple:
            raise ConfigError(f"{field.name} must be a multiple of {multiple}, got {value}: -P {field.name}={value // multiple * multiple}")


def listed(text: str) -> tuple[str, ...]:
    """Split a comma-separated setting: "B03, B04" → ("B03", "B04"); empty text → ()."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


MODEL_NAME = "adipocyte"

# Settings of several commands. A field cannot stand in two dataclasses, so what is shared is how to make it.
_recipe = partial(option, "A named set of settings: fast for two CPU cores, report for the published system.", "fast", choices=RECIPES)
_store = partial(option, "Folder of the prepared store (see preprocess).", "prepared")
_encoder = partial(option, "Encoder, by its name in segmentation-models-pytorch.", "resnet18", report="resnet152")
_encoder_weights = partial(option, "Weights to start from: none, imagenet, or a .safetensors file.", "none", report="imagenet")
_epoch_steps = partial(option, "Steps in an epoch; 0: as many as cover the training wells' area once.", 25, low=0, report=0)
_patch_px = partial(option, "Side of a training patch, in pixels (Table 3.2: 256); a multiple of 32.", 128, low=32, multiple=32, report=256)
_augment_p = partial(option, "Probability of each augmentation (Table 3.2).", 0.5, low=0, high=1)
_rotate_deg = partial(option, "Limit of the random rotation, in degrees (Table 3.2).", 9.0, low=0, high=180)
_precision = partial(option, "Arithmetic: auto takes bf16 where the processor has it.", "auto", choices=("auto", "32", "bf16"))
_workers = partial(option, "Processes that read patches.", 1, low=0, report=8)
_seed = partial(option, "Seed of every random number.", 0, low=0)


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    out: str = option("Folder to write the raw plate into.", "simulated")
    magnifications: str = option("Magnifications, comma-separated.", "20,40,60")
    wells: str = option("Wells, comma-separated.", "B03,B04,C02,C03,C04,D02,D03,D04")
    fovs: int = option("Fields of view in each well, at each magnification.", 2, low=1, high=999)
    height_px: int = option("Height of a field, in pixels.", 512, low=64, high=10000)
    width_px: int = option("Width of a field, in pixels.", 512, low=64, high=10000)
    misalignment: str = option("Shift fluorescence against brightfield as the real plates do.", "none", choices=("none", "measured"))
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    plate: str = option("Folder of the raw plate: 20x_images/, 40x_images/ and/or 60x_images/ with the challenge's TIFFs.")
    store: str = _store()
    normalisation: str = option(
        "Brightfield mean and standard deviation: measured on the training wells, or the report's Table 3.1.",
        "plate",
        choices=("plate", "report"),
    )
    validation_wells: str = option("Wells that choose the best network, comma-separated; empty: drawn with the seed.", "")
    test_wells: str = option("Wells held out to judge the model, comma-separated; empty: drawn with the seed.", "")
    mask_threshold: float = option("Nuclei mask: threshold in means of the image (Table 2.1).", 2.0, low=0)
    mask_superpixel_px: int = option("Nuclei mask: side of a superpixel, in pixels at 20x; it grows with the magnification.", 10, low=2)
    mask_smallest_px: int = option(
        "Nuclei mask: smaller pieces and holes are removed, in pixels of area at 20x; it grows with the magnification's square.",
        500,
        low=0,
    )
    seed: int = option("Seed of the split by well.", 0, low=0)


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    recipe: str = _recipe()
    store: str = _store()
    encoder: str = _encoder()
    encoder_weights: str = _encoder_weights()
    learning_rate: float = option("Adam's initial learning rate (Table 2.1).", 1e-3, low=0)
    batch: int = option("Patches in a step (Table 2.1: 32).", 8, low=1, report=32)
    epochs: int = option("Epochs (Table 2.1: 400).", 8, low=1, report=400)
    epoch_steps: int = _epoch_steps()
    patch_px: int = _patch_px()
    augment_p: float = _augment_p()
    rotate_deg: float = _rotate_deg()
    precision: str = _precision()
    workers: int = _workers()
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    target: str = option("Channel to paint: A1 nuclei, A2 lipid droplets or A3 cytoplasm.", choices=TARGETS)
    recipe: str = _recipe()
    store: str = _store()
    segmenter: str = option("Run id of the segmenter (A1 only); empty: the newest finished one of this store.", "")
    mask_source: str = option(
        "Masks that A1 trains on: the segmenter's, as in use, or those of the true stain, as published.",
        "predicted",
        choices=("predicted", "true"),
        report="true",
    )
    encoder: str = _encoder()
    encoder_weights: str = _encoder_weights()
    wide_convolutions: str = option(
        "Decoder convolutions that are 5x5 (Tables 4.1 and 4.2): auto is all ten, or the last alone for A1.",
        "none",
        choices=("auto", "none", "last", "all"),
        report="auto",
    )
    discriminator_width: int = option("Channels of the discriminator's first convolution.", 16, low=1, report=64)
    mae_weight: float = option("Weight of the mean absolute error in the generator's loss.", 1.0, low=0)
    spectral_weight: float = option("Weight of the spectral loss.", 0.1, low=0, report=1.0)
    adversarial_weight: float = option("Weight of the adversarial loss.", 0.01, low=0, report=1.0)
    learning_rate: float = option("Adam's initial learning rate for the generator (Table 5.1).", 1e-3, low=0)
    discriminator_learning_rate: float = option("Adam's initial learning rate for the discriminator (Table 5.1).", 1e-5, low=0)
    batch: int = option("Patches in a step.", 8, low=1, report=16)
    epochs: int = option("Epochs.", 10, low=1, report=200)
    constant_epochs: int = option("Epochs at the initial rate; it then falls linearly to zero (the Lambda policy).", 5, low=0, report=100)
    epoch_steps: int = _epoch_steps()
    patch_px: int = _patch_px()
    augment_p: float = _augment_p()
    rotate_deg: float = _rotate_deg()
    precision: str = _precision()
    workers: int = _workers()
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class RegisterConfig:
    store: str = _store()
    segmenter: str = option("Run id of the segmenter; empty: the one whose masks A1 trained with.", "")
    a1: str = option("Run id of the A1 generator; empty: the newest finished one of this store.", "")
    a2: str = option("Run id of the A2 generator; empty: the newest finished one of this store.", "")
    a3: str = option("Run id of the A3 generator; empty: the newest finished one of this store.", "")
    name: str = option("Name of the registered model.", MODEL_NAME, without="/:")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    model: str = option("Address of a registered model.", f"models:/{MODEL_NAME}@champion")
    store: str = _store()
    wells: str = option("Part of the split to judge on.", "test", choices=("test", "validation", "train"))


@dataclass(frozen=True, kw_only=True)
class StainConfig:
    plate: str = option("Folder of the raw plate; brightfield planes are enough.")
    model: str = option("Address of a registered model.", f"models:/{MODEL_NAME}@champion")
    out: str = option("Folder for the stained TIFFs.", "stained")
    histogram_matching: str = option("Match each image's histogram to the training wells'.", "true", choices=("true", "false"))


@dataclass(frozen=True, kw_only=True)
class MainConfig:
    plate: str = option("Folder of the raw plate: 20x_images/, 40x_images/ and/or 60x_images/ with the challenge's TIFFs.")
    recipe: str = _recipe()
    store: str = _store()
    name: str = option("Name of the registered model.", MODEL_NAME, without="/:")
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    out: str = option("Folder for the simulated plate, its store, summary.json and preview.png.", "demo")
    seed: int = _seed()
