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
WAYS = ("none", "matching", "calibration")  # of setting the intensities of painted images

RECIPES = ("fast", "report", "stable")
_BUILT_ON = {"stable": "report"}  # where a recipe has no value of its own, it takes this one's

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
    search: tuple[float, float] | None = None,
    **recipes: Any,
) -> Any:
    """Declare a setting: from *low* to *high*, both inclusive, in steps of *multiple*; text that is not empty, *without* some
    characters. `tune` looks for a good value within *search*, on a logarithmic scale.

    `report=…` is its value under that recipe.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "low": low,
        "high": high,
        "multiple": multiple,
        "without": without,
        "search": search,
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
    values = {}
    for name, field in fields.items():
        for kin in (recipe, _BUILT_ON.get(recipe)):
            if kin in field.metadata["recipes"]:
                values[name] = field.metadata["recipes"][kin]
                break
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
_recipe = partial(
    option,
    "A named set of settings: fast for two CPU cores, report as published, stable for the published networks repaired.",
    "fast",
    choices=RECIPES,
)
_store = partial(option, "Folder of the prepared store (see preprocess).", "prepared")
_architecture = partial(option, "Decoder: U-Net, as published, or U-Net++.", "unet", choices=("unet", "unetplusplus"))
_encoder = partial(option, "Encoder, by its name in segmentation-models-pytorch.", "resnet18", report="resnet152")
_encoder_weights = partial(option, "Weights to start from: none, imagenet, or a .safetensors file.", "none", report="imagenet")
_epoch_steps = partial(option, "Steps in an epoch; 0: as many as cover the training wells' area once.", 25, low=0, report=0)
_patch_px = partial(option, "Side of a training patch, in pixels (Table 3.2: 256); a multiple of 32.", 128, low=32, multiple=32, report=256)
_augment_p = partial(option, "Probability of each augmentation (Table 3.2).", 0.5, low=0, high=1)
_rotate_deg = partial(option, "Limit of the random rotation, in degrees (Table 3.2).", 9.0, low=0, high=180)
_augmentations = partial(
    option,
    "Augmentations: the report's five, or more: elastic and grid distortion, exposure of the planes.",
    "report",
    choices=("report", "more"),
)
_clip_norm = partial(option, "Largest norm of a step's gradient; 0: any.", 0.0, low=0)
_patience = partial(option, "Stop when so many epochs bring no better network; 0: never.", 0, low=0)
_save_every = partial(option, "Steps between saved states, from which an interrupted training goes on.", 100, low=1, report=1000)
_compile = partial(option, "Compile the network (torch.compile): slower to start, faster on a GPU.", "false", choices=("true", "false"))
_resume = partial(option, "Run id of an interrupted training to continue, with its own settings; empty: a new one.", "")
_precision = partial(option, "Arithmetic: auto takes bf16 where the processor has it.", "auto", choices=("auto", "32", "bf16"))
_workers = partial(option, "Processes that read patches.", 1, low=0, report=8)
_seed = partial(option, "Seed of every random number.", 0, low=0)


_judging_workers = partial(option, "Processes that measure fields side by side; 0: this one alone.", 2, low=0)
_feature_fields = partial(
    option, "At most so many fields of each magnification are measured for CellProfiler's 99 features; 0: pixels alone.", low=0
)


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    out: str = option("Folder to write the raw plate into.", "simulated")
    magnifications: str = option("Magnifications, comma-separated.", "20,40,60")
    wells: str = option("Wells, comma-separated.", "B03,B04,C02,C03,C04,D02,D03,D04")
    fovs: int = option("Fields of view in each well, at each magnification.", 2, low=1, high=999)
    height_px: int = option("Height of a field, in pixels.", 512, low=64, high=10000)
    width_px: int = option("Width of a field, in pixels.", 512, low=64, high=10000)
    misalignment: str = option("Shift fluorescence against brightfield as the real plates do.", "none", choices=("none", "measured"))
    batch_effect: str = option("Let each well differ in lamp, staining, focus and density of cells.", "none", choices=("none", "wells"))
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
        150,
        low=0,
    )
    align: str = option(
        "How fluorescence lies against brightfield: estimate it from the training wells, none, or a file alignment.json of another plate.",
        "estimate",
    )
    flagged: str = option("Fields outside the limits of quality: kept, or left out of training.", "keep", choices=("keep", "leave_out"))
    on_error: str = option(
        "At a field that is not whole or cannot be read: stop, with a table of all of them, or go on without it.",
        "stop",
        choices=("stop", "skip"),
    )
    workers: int = option("Processes that prepare fields; 0: this one alone.", 2, low=0)
    seed: int = option("Seed of the split by well.", 0, low=0)


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    recipe: str = _recipe()
    store: str = _store()
    architecture: str = _architecture()
    encoder: str = _encoder()
    encoder_weights: str = _encoder_weights()
    loss: str = option("Binary cross-entropy (section 5.3), soft Dice, or their sum.", "bce", choices=("bce", "dice", "bce+dice"))
    learning_rate: float = option("Adam's initial learning rate (Table 2.1).", 1e-3, low=0)
    clip_norm: float = _clip_norm()
    batch: int = option("Patches in a step (Table 2.1: 32).", 8, low=1, report=32)
    epochs: int = option("Epochs (Table 2.1: 400).", 8, low=1, report=400)
    patience: int = _patience()
    epoch_steps: int = _epoch_steps()
    patch_px: int = _patch_px()
    augment_p: float = _augment_p()
    rotate_deg: float = _rotate_deg()
    augmentations: str = _augmentations()
    precision: str = _precision()
    compile: str = _compile()
    workers: int = _workers()
    save_every: int = _save_every()
    resume: str = _resume()
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    target: str = option("Channel to paint: A1 nuclei, A2 lipid droplets or A3 cytoplasm.", choices=TARGETS)
    recipe: str = _recipe()
    store: str = _store()
    segmenter: str = option("Run id of the segmenter (A1 only); empty: the newest finished one of this store.", "")
    mask_source: str = option(
        "Masks that A1 trains on: the segmenter's, as in use, those of the true stain, as published, or each by turns at random.",
        "predicted",
        choices=("predicted", "true", "mixed"),
        report="true",
        stable="mixed",
    )
    architecture: str = _architecture()
    encoder: str = _encoder()
    encoder_weights: str = _encoder_weights()
    wide_convolutions: str = option(
        "Decoder convolutions that are 5x5 (Tables 4.1 and 4.2): auto is all ten, or the last alone for A1.",
        "none",
        choices=("auto", "none", "last", "all"),
        report="auto",
    )
    discriminator: str = option(
        "Judge of the painted images: the report's plain CNN, the PatchGAN of pix2pix, or none.", "cnn", choices=("cnn", "patchgan", "none")
    )
    discriminator_width: int = option("Channels of the discriminator's first convolution.", 16, low=1, report=64)
    discriminator_norm: str = option(
        "Normalisation in the discriminator: none, batch or spectral.", "none", choices=("none", "batch", "spectral")
    )
    discriminator_every: int = option("Steps between two updates of the discriminator.", 1, low=1)
    warmup_epochs: int = option("Epochs on MAE and spectral loss alone, before the discriminator takes part.", 0, low=0)
    label_smoothing: float = option("The discriminator aims at 1 - this for real and at this for painted images.", 0.0, low=0, high=0.5)
    r1_weight: float = option("Weight of the penalty on the discriminator's gradient at real images (R1).", 0.0, low=0)
    mae_weight: float = option("Weight of the mean absolute error in the generator's loss.", 1.0, low=0)
    spectral_weight: float = option("Weight of the spectral loss.", 0.1, low=0, search=(0.01, 1.0), report=1.0)
    adversarial_weight: float = option("Weight of the adversarial loss.", 0.01, low=0, search=(0.001, 1.0), report=1.0)
    select: str = option(
        "What chooses the best epoch on the validation wells: the pixel metric, the feature metric (CellProfiler's), or their mean.",
        "pixels",
        choices=("pixels", "features", "mean"),
    )
    select_fields: int = option("Validation fields of each magnification that select=features and select=mean measure.", 2, low=1)
    ema: float = option(
        "Validate and keep the generator's moving average, with this decay; 0: the generator as it is.",
        0.0,
        low=0,
        high=0.99999,
        stable=0.99,
    )
    learning_rate: float = option("Adam's initial learning rate for the generator (Table 5.1).", 1e-3, low=0, search=(1e-4, 3e-3))
    discriminator_learning_rate: float = option(
        "Adam's initial learning rate for the discriminator (Table 5.1).", 1e-5, low=0, search=(1e-6, 1e-3)
    )
    clip_norm: float = _clip_norm()
    batch: int = option("Patches in a step.", 8, low=1, report=16)
    epochs: int = option("Epochs.", 10, low=1, report=200)
    patience: int = _patience()
    constant_epochs: int = option("Epochs at the initial rate; it then falls linearly to zero (the Lambda policy).", 5, low=0, report=100)
    epoch_steps: int = _epoch_steps()
    patch_px: int = _patch_px()
    augment_p: float = _augment_p()
    rotate_deg: float = _rotate_deg()
    augmentations: str = _augmentations()
    precision: str = _precision()
    compile: str = _compile()
    workers: int = _workers()
    save_every: int = _save_every()
    resume: str = _resume()
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    target: str = option("Channel to paint: A1 nuclei, A2 lipid droplets or A3 cytoplasm.", choices=TARGETS)
    recipe: str = _recipe()
    store: str = _store()
    trials: int = option("Finished trials that the study shall have in all, those cut short for their poor score included.", 20, low=1)
    study: str = option("Name of the study, to go on with or to begin; empty: the target and the store's digest.", "")
    storage: str = option(
        "Database of the study, which several machines may share: its address, without a password, for it is recorded.", "sqlite:///tune.db"
    )
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class RegisterConfig:
    store: str = _store()
    segmenter: str = option("Run id of the segmenter; empty: the one whose masks A1 trained with.", "")
    a1: str = option("Run id of the A1 generator; empty: the newest finished one of this store.", "")
    a2: str = option("Run id of the A2 generator; empty: the newest finished one of this store.", "")
    a3: str = option("Run id of the A3 generator; empty: the newest finished one of this store.", "")
    name: str = option("Name of the registered model.", MODEL_NAME, without="/:")
    tolerance: float = option(
        "By what share a new champion may be worse than the old one on a single target's MAE / median.", 0.05, low=0, high=1
    )
    storage: str = option(
        "How the weights are kept on disk: as they are, or as bfloat16 at half the size.", "float32", choices=("float32", "bfloat16")
    )
    feature_fields: int = _feature_fields(4)
    workers: int = _judging_workers()
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    model: str = option("Address of a registered model.", f"models:/{MODEL_NAME}@champion")
    runs: str = option("Judge these training runs instead, comma-separated, without registering them: ids of train_gan.", "")
    store: str = _store()
    wells: str = option("Part of the split to judge on.", "test", choices=("test", "validation", "train"))
    truth: str = option("Judge two folders of TIFFs instead: the true stains, under the challenge's names.", "")
    prediction: str = option("Judge two folders of TIFFs instead: the predictions of them, by anyone.", "")
    magnification: int = option("Magnification of the two folders, where their names do not tell it.", 0, choices=(0, *MAGNIFICATIONS))
    on_error: str = option(
        "Where the two folders do not pair up: stop, with a table of all that is wrong, or go on without those fields.",
        "stop",
        choices=("stop", "skip"),
    )
    feature_fields: int = _feature_fields(999)
    workers: int = _judging_workers()
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class StainConfig:
    plate: str = option("Folder of the raw plate; brightfield planes are enough.")
    model: str = option("Address of a registered model.", f"models:/{MODEL_NAME}@champion")
    out: str = option("Folder for the stained TIFFs, or an address that fsspec knows, such as s3://bucket/folder.", "stained")
    cluster: str = option("Address of a Ray cluster that shall paint, such as 10.0.0.1:6379; empty: this machine.", "")
    worker_cpus: int = option("Cores of each worker on the cluster; 0: all of a node, or a GPU's share of them.", 0, low=0, high=1024)
    intensities: str = option(
        "How the intensities are set: as the model keeps it, none, matching each image's histogram, or one fixed calibration.",
        "kept",
        choices=("kept", *WAYS),
    )
    tile_px: int = option(
        "Side of the tiles that a field is painted in, in pixels; 0: in one piece, or as large as memory allows.",
        0,
        low=0,
        high=10016,
        multiple=32,
    )
    tta: str = option("Average the paintings of a field turned and mirrored in all eight ways: off, or on.", "off", choices=("off", "on"))
    memory_mb: int = option("Memory that painting a field may take, in MB; 0: three quarters of what is free.", 0, low=0, high=10_000_000)
    precision: str = option(
        "Arithmetic of the networks: auto takes the one that this processor is faster in.", "auto", choices=("auto", "32", "bf16")
    )
    compile: str = option(
        "Spend some seconds at the start to be faster at every field: auto does for plates of 16 fields and more.",
        "auto",
        choices=("auto", "on", "off"),
    )


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


@dataclass(frozen=True, kw_only=True)
class DemoAppConfig:
    server: str = option("Address of the served model.", "http://127.0.0.1:5001")
    port: int = option("Port of this machine to open the page at.", 7860, low=1, high=65535)
