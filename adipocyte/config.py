"""Every setting of every entry point, stated once: name, type, help, range, default, recipes.

A setting's type says what it may be: `Literal` its choices, `bool` a switch, `Path` a path.
`entrypoints/command.py` derives the command lines from these classes; a test holds MLproject to
them. Networks, losses and the chain take plain arguments and never see a config.
"""

import dataclasses
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from adipocyte.domain import MOST_MAGNIFICATION, MOST_UM_PER_PX, SMALLEST_PX, TARGETS
from adipocyte.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Recipe = Literal["fast", "report", "stable", "shared"]
Precision = Literal["auto", "32", "bf16"]
OnError = Literal["stop", "skip"]
AutoSwitch = Literal["auto", "true", "false"]

_BUILT_ON = {"stable": "report"}  # where a recipe has no value of its own, it takes this one's

_HOME = "~/"  # how text begins that is a path, where it may be something else
_SWITCH_WORDS = {
    **dict.fromkeys(("true", "on", "yes", "1"), "true"),
    **dict.fromkeys(("false", "off", "no", "0"), "false"),
}
_TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}

# Settings of earlier versions, each with the value under which a training is what it is today.
# Some are settings still, of another kind of training.
RETIRED = {
    "augmentations": "report",
    "discriminator_every": 1,
    "discriminator_norm": "none",
    "label_smoothing": 0.0,
    "loss": "bce",
    "r1_weight": 0.0,
    "warmup_epochs": 0,
}

# Settings that earlier versions did not record, each with the value that they trained with.
LATER = {"finest_um_per_px": 0.0}

Config = TypeVar("Config", bound="DataclassInstance")


def option(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    multiple: int = 1,
    without: str = "",
    among: tuple[str, ...] = (),
    unless: str = "",
    search: tuple[float, float] | None = None,
    **recipes: Any,
) -> Any:
    """Declare a setting: from *low* to *high*, both inclusive, in steps of *multiple*.

    Text with *without* must not be empty and must not contain any of those characters. Text with
    *among* names some of those, comma-separated, each once, or "all". `tune`
    searches *search*, on a logarithmic scale. `report=…` is the value under that recipe, *unless*
    another setting is given.
    """
    rules = {"low": low, "high": high, "multiple": multiple, "without": without, "among": among}
    metadata = {"help": help, "search": search, "recipes": recipes, "unless": unless, **rules}
    return dataclasses.field(default=default, metadata=metadata)


def build(kind: type[Config], given: dict[str, Any]) -> Config:
    """Make a *kind* from what was *given*; the rest comes from the recipe, then the defaults.

    Paths and switches may be given as text. Raises ConfigError when a name is unknown, or a value
    is missing, has another type or lies outside its range.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := [name for name in given if name not in fields]:
        raise ConfigError(
            f"there is no setting {unknown[0]!r}", f"the settings are {', '.join(fields)}"
        )
    recipe, types = given.get("recipe", getattr(kind, "recipe", "")), get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        recipes = {} if field.metadata["unless"] in given else field.metadata["recipes"]
        known_as = recipe if recipe in recipes else _BUILT_ON.get(recipe)
        if name in given:
            values[name] = read(types[name], given[name])
        elif known_as in recipes:
            values[name] = recipes[known_as]
        elif field.default is dataclasses.MISSING:
            raise ConfigError(
                f"the setting {name!r} is missing ({field.metadata['help']})",
                f"give it with -P {name}=<value>",
            )
    config = kind(**values)
    check(config)
    return config


def check(config: "DataclassInstance") -> None:
    """Raise ConfigError when a value of *config* has another type or lies outside its range."""
    types = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        name, value, rules = field.name, getattr(config, field.name), field.metadata
        _check_type(name, value, types[name])
        _check_range(name, value, rules["low"], rules["high"])
        if (without := rules["without"]) and (not value or set(value) & set(without)):
            raise ConfigError(
                f"{name} must be a name without {' or '.join(without)}, got {value!r}",
                f"-P {name}={field.default}",
            )
        if rules["among"]:
            _check_among(name, value, rules["among"])
        if (multiple := rules["multiple"]) > 1 and value % multiple:
            raise ConfigError(
                f"{name} must be a multiple of {multiple}, got {value}",
                f"-P {name}={value // multiple * multiple}",
            )


def _check_type(name: str, value: Any, annotation: Any) -> None:
    if allowed := choices(annotation):
        if value not in allowed:
            listing = ", ".join(map(str, allowed))
            raise ConfigError(
                f"{name} must be one of {listing}, got {value!r}", f"-P {name}={allowed[0]}"
            )
        return
    accepted = (int, float) if annotation is float else annotation
    is_switch = annotation is bool  # Python takes True for a number
    if not isinstance(value, accepted) or isinstance(value, bool) != is_switch:
        needed = _TYPE_WORDS.get(annotation, "a path")
        raise ConfigError(f"{name} must be {needed}, got {value!r}", f"-P {name}=<value>")


def _check_range(name: str, value: Any, low: float | None, high: float | None) -> None:
    # `not value >= low`, because NaN is neither below nor above.
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        nearest = high if high is not None and value > high else low
        raise ConfigError(f"{name} must be {bounds}, got {value}", f"-P {name}={nearest}")


def _check_among(name: str, value: str, among: tuple[str, ...]) -> None:
    named = listed(value)
    if value != "all" and (not named or len({*named}) < len(named) or {*named} - {*among}):
        raise ConfigError(
            f"{name} must be some of {', '.join(among)}, or all, got {value!r}",
            f"-P {name}={among[0]}, or several, -P {name}={','.join(among[:2])}",
        )


def choices(annotation: Any) -> tuple[Any, ...]:
    """The values that a setting of this type may have: those of a `Literal`, else ()."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def read(annotation: Any, value: Any) -> Any:
    """*value* as a setting of this type: text becomes a path or a switch where one is due.

    In a path `~` is the home folder.
    """
    if not isinstance(value, str):
        return value
    if annotation in (Path, Path | None) or value.startswith(_HOME):
        value = os.path.expanduser(value)  # behind `-P plate=` a shell does not
    if annotation is Path:
        return Path(value)
    if annotation == Path | None:
        return Path(value) if value else None
    if annotation is bool:
        return {"true": True, "false": False}.get(_switch_word(value), value)
    return _switch_word(value) if annotation == AutoSwitch else value


def _switch_word(text: str) -> str:
    """The "true" or "false" that *text* means, in any of its words; other text as it is."""
    return _SWITCH_WORDS.get(text.lower(), text)


def spelled(value: Any) -> str:
    """A setting's value as it is typed: true and false for switches, nothing for no path."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def plain(config: "DataclassInstance") -> dict[str, Any]:
    """The settings of *config* by name, as JSON can hold them."""
    settings = dataclasses.asdict(config)
    return {
        name: spelled(value) if isinstance(value, Path | None) else value
        for name, value in settings.items()
    }


def as_recorded(kind: type["DataclassInstance"], settings: dict[str, Any]) -> dict[str, Any]:
    """*settings* that an earlier version recorded, as settings of a *kind* of today.

    Raises ConfigError when one that is gone had a value that today's code cannot train with.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    gone = RETIRED.keys() - names
    for name, value in settings.items():
        if name in gone and value != RETIRED[name]:
            raise ConfigError(
                f"{name}={value} is a setting of an earlier version",
                "train anew; docs/measurements/training.md says why it is gone",
            )
    before = {name: value for name, value in LATER.items() if name in names}
    return before | {name: value for name, value in settings.items() if name not in gone}


def listed(text: str) -> tuple[str, ...]:
    """Split a comma-separated setting: "B03, B04" → ("B03", "B04"); empty text → ()."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def targets_named(text: str) -> tuple[str, ...]:
    """The targets in a setting `target`, in order: "A3,A1" → ("A1", "A3"); "all" → all three."""
    named = TARGETS if text == "all" else listed(text)
    return tuple(target for target in TARGETS if target in named)


MODEL_NAME = "adipocyte"
# No number may be larger, so that none runs over in a library: seeds of NumPy have 32 bits.
_LARGEST = 2**31 - 1
_LARGEST_FLOAT = 1e9
_MOST_STEPS = 1_000_000_000
_MOST_EPOCHS = 1_000_000
_MOST_WORKERS = 1024
# Of the learning rate, when a training starts from a trained network; or from the pretrained one,
# which unlearns more than it learns at that (docs/measurements/training.md).
_STARTED_RATE, _PRETRAINED_RATE = 0.2, 0.1
PRETRAINED = "pretrained"  # the start of that name
AUTO_START, NO_START = "auto", "none"

# Settings of several commands. Two dataclasses cannot share a field, so they share its maker.
_recipe = partial(
    option,
    "A named set of settings: shared paints all stains by one network; report is as published, "
    "fast the same for two CPU cores, stable repairs the published networks.",
    default="fast",
)
_plate = partial(
    option,
    "Folder of the raw plate: 20x_images/, 40x_images/, … with the challenge's "
    "TIFFs, or an instrument's own folder (see layout).",
)
_plate_name = partial(
    option,
    "Which plate, where the folder holds several: as the names of its files begin, up to the well; "
    "empty: there is one.",
    "",
)
_layout = partial(
    option,
    "How the plate's folder is laid out: auto, which recognises challenge, yokogawa, "
    "imagexpress, phenix and ome-zarr; one of these; or a pattern of names such as "
    "{plate}_{well}_s{fov}_w{channel}.tif with {z} and {time} where there are any, and * for any "
    "text.",
    "auto",
)
_channels = partial(
    option,
    "What the plate's channels are, by number or by the instrument's own name: brightfield=4, "
    "A1=DAPI, A2=2; empty: as the plate tells, in the challenge's layout A1=1, A2=2, A3=3, "
    "brightfield=4.",
    "",
)
_magnification = partial(option, default=0, low=0, high=MOST_MAGNIFICATION)
_plate_magnification = partial(
    _magnification,
    "Magnification of a plate that does not tell it, or tells a wrong one; 0: as told.",
)
_um_per_px = partial(option, default=0.0, low=0, high=MOST_UM_PER_PX)
_plate_um_per_px = partial(
    _um_per_px,
    "µm per pixel of a plate that does not tell it, or tells a wrong one; 0: as told, or as is "
    "usual at its magnification.",
)
_resample = partial(
    option,
    "Paint fields of an objective that the registered model has not seen in pixels of the nearest "
    "that it has, and bring them back; else they are refused.",
    False,
)
_target = partial(
    option,
    "What to paint: A1 nuclei, A2 lipid droplets, A3 cytoplasm; several by one network, "
    "comma-separated, or all.",
    among=TARGETS,
)
_name = partial(option, "Name of the registered model.", MODEL_NAME, without="/:")
_store = partial(option, "Folder of the prepared store (see preprocess).", Path("prepared"))
_encoder = partial(
    option, "Encoder, by its name in segmentation-models-pytorch.", "resnet18", report="resnet152"
)
_encoder_weights = partial(
    option,
    "Weights to start from: none, imagenet, or a .safetensors file.",
    "none",
    report="imagenet",
)
_epoch_steps = partial(
    option,
    "Steps in an epoch; 0: as many as cover the training wells' area once.",
    25,
    low=0,
    high=_MOST_EPOCHS,
    report=0,
    shared=50,
)
_patch_px = partial(
    option,
    "Side of a training patch, in pixels (Table 3.2: 256); a multiple of 32.",
    128,
    low=32,
    high=10016,
    multiple=32,
    report=256,
)
_augment_p = partial(option, "Probability of each augmentation (Table 3.2).", 0.5, low=0, high=1)
_rotate_deg = partial(
    option, "Limit of the random rotation, in degrees (Table 3.2).", 9.0, low=0, high=180
)
_clip_norm = partial(
    option, "Largest norm of a step's gradient; 0: any.", 0.0, low=0, high=_LARGEST_FLOAT
)
_patience = partial(
    option,
    "Stop when so many epochs bring no better network; 0: never.",
    0,
    low=0,
    high=_MOST_EPOCHS,
)
_threads = partial(
    option,
    "Threads that a CPU computes on: auto, as many as other processes leave, looked at again from "
    "time to time; a number; or the course of another training, which repeats it bit for bit "
    "beside busy processes (2,1@1200: two, from step 1200 on one).",
    "auto",
)
_save_every = partial(
    option,
    "Steps between saved states, from which an interrupted training resumes.",
    100,
    low=1,
    high=_MOST_STEPS,
    report=1000,
)
_compile = partial(
    option, "Compile the network (torch.compile): slower to start; measure whether it pays.", False
)
_resume = partial(
    option,
    "Run id of an interrupted training to resume, with its own settings; empty: a new training.",
    "",
)
_precision = partial(
    option, "Arithmetic: 32 bit, bf16, or auto, the faster one on this processor.", "auto"
)
_workers = partial(
    option,
    "Processes that read patches; 0: only this one.",
    1,
    low=0,
    high=_MOST_WORKERS,
    report=8,
)
_seed = partial(option, "Seed of every random number.", 0, low=0, high=_LARGEST)
_weight = partial(option, low=0, high=_LARGEST_FLOAT)
_rate = partial(option, low=0, high=1000)
_judging_workers = partial(
    option,
    "Processes that measure fields side by side; 0: only this one.",
    2,
    low=0,
    high=_MOST_WORKERS,
)
_worker_cpus = partial(option, low=0, high=1024)
_feature_fields = partial(
    option,
    "Largest number of fields of each magnification to measure CellProfiler's 99 features on; 0: "
    "measure pixels only.",
    low=0,
    high=_LARGEST,
)


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    out: Path = option("Folder to write the raw plate into.", Path("simulated"))
    magnifications: str = option("Magnifications, comma-separated.", "20,40,60")
    wells: str = option("Wells, comma-separated.", "B03,B04,C02,C03,C04,D02,D03,D04")
    fovs: int = option("Fields of view in each well, at each magnification.", 2, low=1, high=999)
    height_px: int = option("Height of a field, in pixels.", 512, low=SMALLEST_PX, high=10000)
    width_px: int = option("Width of a field, in pixels.", 512, low=SMALLEST_PX, high=10000)
    misalignment: Literal["none", "measured"] = option(
        "Shift fluorescence against brightfield as the real plates do.", "none"
    )
    batch_effect: Literal["none", "wells", "laboratories"] = option(
        "Let each well differ in lamp, staining, focus and density of cells; or as if another "
        "laboratory had grown and photographed it: also in optics, cameras, planes and cells.",
        "none",
    )
    workers: int = option(
        "Processes that simulate fields; 0: only this one.", 2, low=0, high=_MOST_WORKERS
    )
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    plate: Path = _plate()
    store: Path = _store()
    layout: str = _layout()
    channels: str = _channels()
    magnification: int = _plate_magnification()
    um_per_px: float = _plate_um_per_px()
    plate_name: str = _plate_name()
    stain_z: int = option(
        "Which z-plane of stains that were taken at several, by the number in the names; 0: there "
        "is one.",
        0,
        low=0,
        high=999,
    )
    normalisation: Literal["field", "plate", "report"] = option(
        "Mean and standard deviation that counts are measured in: of each field by itself (stains: "
        "of each well), which bears other exposures and microscopes; of the plate's training "
        "wells; or that with brightfield's from the report's Table 3.1.",
        "field",
    )
    validation_wells: str = option(
        "Wells that choose the best network, comma-separated; empty: drawn with the seed.", ""
    )
    test_wells: str = option(
        "Wells held out to judge the model, comma-separated; empty: drawn with the seed.", ""
    )
    mask_threshold: float = option(
        "Nuclei mask: threshold in means of the image (Table 2.1).", 2.0, low=0, high=65535
    )
    mask_superpixel_px: int = option(
        "Nuclei mask: side of a superpixel, in pixels at 20x; it grows as pixels get smaller.",
        10,
        low=2,
        high=10000,
    )
    mask_smallest_px: int = option(
        "Nuclei mask: smaller pieces and holes are removed, in pixels of area at 20x; it grows "
        "with the square of that.",
        150,
        low=0,
        high=100_000_000,
    )
    align: str = option(
        "How fluorescence lies against brightfield: estimate it from the training wells, none, or "
        "a file alignment.json of another plate.",
        "estimate",
    )
    flagged: Literal["keep", "leave_out"] = option(
        "Fields outside the limits of quality: kept, or left out of training.", "keep"
    )
    on_error: OnError = option(
        "At a field that is not whole or cannot be read: stop, with a table of all of them, or "
        "skip it; of a field that only lacks stains, skip those.",
        "stop",
    )
    look: bool = option(
        "Print what is understood of the plate and every problem of it, and prepare nothing.", False
    )
    workers: int = option(
        "Processes that prepare fields; 0: only this one.", 2, low=0, high=_MOST_WORKERS
    )
    seed: int = option("Seed of the split by well.", 0, low=0, high=_LARGEST)


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    recipe: Recipe = _recipe()
    store: Path = _store()
    architecture: Literal["unet", "unetplusplus"] = option(
        "Decoder: U-Net, as published, or U-Net++.", "unet"
    )
    encoder: str = _encoder()
    encoder_weights: str = _encoder_weights()
    learning_rate: float = _rate("Adam's initial learning rate (Table 2.1).", 1e-3)
    clip_norm: float = _clip_norm()
    batch: int = option("Patches in a step (Table 2.1: 32).", 8, low=1, high=4096, report=32)
    epochs: int = option("Epochs (Table 2.1: 400).", 8, low=1, high=_MOST_EPOCHS, report=400)
    patience: int = _patience()
    epoch_steps: int = _epoch_steps()
    patch_px: int = _patch_px()
    augment_p: float = _augment_p()
    rotate_deg: float = _rotate_deg()
    precision: Precision = _precision()
    compile: bool = _compile()
    workers: int = _workers()
    threads: str = _threads()
    save_every: int = _save_every()
    resume: str = _resume()
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    target: str = _target()
    recipe: Recipe = _recipe()
    store: Path = _store()
    segmenter: str = option(
        "Run id of the segmenter (A1 only); empty: the newest finished one of this store.", ""
    )
    mask_source: Literal["predicted", "true", "mixed", "none"] = option(
        "Nuclei masks that a network of A1 sees in training: predicted by the segmenter, as when "
        "the model is used; true, of the true stain, as published; mixed, one of the two at "
        "random; or none, which needs no segmenter.",
        "predicted",
        shared="none",
        report="true",
        stable="mixed",
    )
    architecture: Literal["unet", "unetplusplus", "compact"] = option(
        "U-Net, as published, U-Net++, or a small U-Net without convolutions at full size, which "
        "has no other encoder than its own.",
        "unet",
        shared="compact",
    )
    encoder: str = _encoder(shared="none")
    encoder_weights: str = _encoder_weights()
    wide_convolutions: Literal["auto", "none", "last", "all"] = option(
        "Decoder convolutions that are 5x5 (Tables 4.1 and 4.2): auto is all ten, or only the last "
        "for A1.",
        "none",
        report="auto",
    )
    discriminator: Literal["cnn", "patchgan", "none"] = option(
        "Discriminator: the report's plain CNN, the PatchGAN of pix2pix, or none.",
        "cnn",
        shared="none",
    )
    discriminator_width: int = option(
        "Channels of the discriminator's first convolution.", 16, low=1, high=1024, report=64
    )
    mae_weight: float = _weight("Weight of the mean absolute error in the generator's loss.", 1.0)
    bright_weight: float = _weight(
        "How much more than one, at most, bright pixels weigh in the mean absolute error: one more "
        "for each standard deviation above the mean.",
        0.0,
        shared=2.0,
    )
    spectral_weight: float = _weight(
        "Weight of the spectral loss.", 0.1, search=(0.01, 1.0), report=1.0, shared=0.0
    )
    adversarial_weight: float = _weight(
        "Weight of the adversarial loss.", 0.01, search=(0.001, 1.0), report=1.0
    )
    select: Literal["pixels", "features", "mean", "units"] = option(
        "Metric that chooses the best epoch on the validation wells: of pixels, of features "
        "(CellProfiler's), or their mean; or the mean absolute error in units of each field, where "
        "wells are stained so differently that counts cannot choose.",
        "pixels",
    )
    select_fields: int = option(
        "Validation fields of each magnification that select=features and select=mean measure.",
        2,
        low=1,
        high=_LARGEST,
    )
    ema: float = option(
        "Validate and keep the generator's moving average, with this decay; 0: the generator as "
        "it is.",
        0.0,
        low=0,
        high=0.99999,
        stable=0.99,
        shared=0.995,
    )
    schedule: Literal["lambda", "cosine"] = option(
        "Course of the learning rate: lambda, constant and then falling linearly, as published, "
        "with Adam; or cosine, after a warm-up, with Muon and a moving average that begins short.",
        "lambda",
        shared="cosine",
    )
    learning_rate: float = _rate(
        "Largest learning rate of the generator (Table 5.1).",
        1e-3,
        search=(1e-4, 3e-3),
        shared=5e-3,
    )
    discriminator_learning_rate: float = _rate(
        "Adam's initial learning rate for the discriminator (Table 5.1).",
        1e-5,
        search=(1e-6, 1e-3),
    )
    clip_norm: float = _clip_norm()
    batch: int = option("Patches in a step.", 8, low=1, high=4096, report=16)
    epochs: int = option("Epochs.", 10, low=1, high=_MOST_EPOCHS, report=200)
    minutes: float = option(
        "How long to train, in minutes: as many epochs as fit, by the pace that is measured at the "
        "start; 0: as many as epochs says.",
        0.0,
        low=0,
        high=100_000,
        unless="epochs",
        shared=5.0,
    )
    patience: int = _patience()
    constant_epochs: int = option(
        "Epochs at the initial rate; it then falls linearly to zero (the Lambda policy).",
        5,
        low=0,
        high=_MOST_EPOCHS,
        report=100,
    )
    epoch_steps: int = _epoch_steps()
    patch_px: int = _patch_px()
    finest_um_per_px: float = option(
        "Smallest pixels, in µm, that the network sees: so many finer ones are joined as come "
        "nearest, by 0.25 two by two at 40x and 60x; 0: the pixels of every objective.",
        0.0,
        low=0,
        high=MOST_UM_PER_PX,
        shared=0.25,
    )
    augment_p: float = _augment_p(shared=0.7)
    rotate_deg: float = _rotate_deg(shared=180.0)
    augmentations: Literal["report", "microscope", "any_planes"] = option(
        "What varies in training: place, angle and size, as published; microscope, also where the "
        "planes lie, and noise; or any_planes, also their number, down to one.",
        "report",
    )
    precision: Precision = _precision()
    compile: bool = _compile()
    workers: int = _workers()
    threads: str = _threads()
    save_every: int = _save_every()
    start: str = option(
        "Trained network to start from, at a lower learning rate: a registered model "
        "(models:/adipocyte@champion), a run id of train_gan, a bundle's folder, or pretrained, "
        "the network that comes with the package; auto: that one under recipe=shared, where it "
        "fits; none.",
        AUTO_START,
    )
    resume: str = _resume()
    seed: int = _seed()

    @property
    def targets(self) -> tuple[str, ...]:
        """What the generator paints, in the order of its outputs."""
        return targets_named(self.target)

    @property
    def largest_rate(self) -> float:
        """The generator's largest learning rate: lower when its weights have learnt already."""
        if self.start == PRETRAINED:
            return self.learning_rate * _PRETRAINED_RATE
        return self.learning_rate * (_STARTED_RATE if self.names_start else 1.0)

    @property
    def names_start(self) -> bool:
        """Whether a trained network to start from is named; `auto` names none yet."""
        return self.start not in (AUTO_START, NO_START, "")  # "" in runs of older versions

    @property
    def needs_features(self) -> bool:
        """Whether CellProfiler's features choose the network, alone or with others."""
        return self.select in ("features", "mean")

    @property
    def sees_mask(self) -> bool:
        """Whether the generator sees a nuclei mask beside the planes."""
        return "A1" in self.targets and self.mask_source != "none"


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    target: str = _target()
    recipe: Recipe = _recipe()
    store: Path = _store()
    trials: int = option(
        "Total number of finished trials, pruned ones included.",
        20,
        low=1,
        high=_MOST_EPOCHS,
    )
    study: str = option(
        "Name of the study to begin or resume; empty: the target and the store's digest.",
        "",
    )
    storage: str = option(
        "Database of the study, which several machines may share: its address, without a password "
        "because the run records it.",
        "sqlite:///tune.db",
    )
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class RegisterConfig:
    store: Path = _store()
    segmenter: str = option(
        "Run id of the segmenter; empty: the one whose masks A1 trained with.", ""
    )
    a1: str = option(
        "Run id of the A1 generator; empty: the newest finished one of this store.", ""
    )
    a2: str = option(
        "Run id of the A2 generator; empty: the newest finished one of this store.", ""
    )
    a3: str = option(
        "Run id of the A3 generator; empty: the newest finished one of this store.", ""
    )
    pretrained: bool = option(
        "Register the network that comes with the package, which has learnt from simulation "
        "alone; of the other settings only name counts then.",
        False,
    )
    name: str = _name()
    tolerance: float = option(
        "By what share a new champion may be worse than the old one in a single target's MAE / "
        "median.",
        0.05,
        low=0,
        high=1,
    )
    storage: Literal["float32", "bfloat16"] = option(
        "How the weights are kept on disk: as they are, or as bfloat16 at half the size.",
        "float32",
    )
    feature_fields: int = _feature_fields(4)
    grade_fields: int = option(
        "Validation fields of each magnification that grade what measurements of painted images "
        "are worth; never fewer than feature_fields, none where that is 0.",
        16,
        low=0,
        high=999,
    )
    workers: int = _judging_workers()
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    model: str = option("Address of a registered model.", f"models:/{MODEL_NAME}@champion")
    runs: str = option(
        "Judge these training runs instead, comma-separated, without registering them: run ids of "
        "train_gan.",
        "",
    )
    store: Path = _store()
    wells: Literal["test", "validation", "train"] = option("Part of the split to judge on.", "test")
    resample: bool = _resample()
    truth: Path | None = option(
        "Judge two folders instead, of TIFFs or OME-Zarr: the true stains, under the challenge's "
        "names.",
        None,
    )
    prediction: Path | None = option(
        "Judge two folders instead, of TIFFs or OME-Zarr: the predictions of any program.", None
    )
    magnification: int = _magnification(
        "Magnification of the two folders, where their names do not tell it."
    )
    um_per_px: float = _um_per_px(
        "µm per pixel of the two folders; 0: as the images tell, or as is usual."
    )
    on_error: OnError = option(
        "Where the two folders do not pair up: stop, with a table of all that is wrong, or skip "
        "those fields.",
        "stop",
    )
    feature_fields: int = _feature_fields(999)
    workers: int = _judging_workers()
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class RelocateConfig:
    before: Path = option("Folder in which the artifacts were, as MLflow's database has it.")
    now: Path = option("Folder in which they are now.", Path("."))


@dataclass(frozen=True, kw_only=True)
class StainConfig:
    plate: Path = option("Folder of the raw plate; brightfield planes are enough.")
    layout: str = _layout()
    channels: str = _channels()
    magnification: int = _plate_magnification()
    um_per_px: float = _plate_um_per_px()
    plate_name: str = _plate_name()
    resample: bool = _resample()
    model: str = option("Address of a registered model.", f"models:/{MODEL_NAME}@champion")
    out: str = option(
        "Folder for the stained images, or an address that fsspec knows: s3://bucket/folder.",
        "stained",
    )
    format: Literal["tiff", "ome-zarr"] = option(
        "What images are written as: tiff, a file for each stain under the challenge's names; or "
        "ome-zarr, a plate of NGFF 0.5 with the stains as channels.",
        "tiff",
    )
    brightfield: bool = option(
        "Copy the brightfield planes beside the stains, as channels Z1, Z2, ... of ome-zarr.", False
    )
    cluster: str = option(
        "Address of a Ray cluster to paint on, such as 10.0.0.1:6379; empty: this machine.", ""
    )
    worker_cpus: int = _worker_cpus(
        "Cores of each worker on the cluster; 0: all of a node, or a GPU's share of them.", 0
    )
    intensities: Literal["kept", "none", "matching", "calibration", "highlights"] = option(
        "How the intensities are set: kept, in the model's own way; none; matching of each image's "
        "histogram; one fixed calibration; or that with the few brightest pixels matched.",
        "kept",
    )
    tile_px: int = option(
        "Side of the tiles that a field is painted in, in pixels; 0: one piece, or tiles as large "
        "as memory allows.",
        0,
        low=0,
        high=10016,
        multiple=32,
    )
    tta: bool = option(
        "Average the paintings of a field turned and mirrored in all eight ways.", False
    )
    uncertainty: bool = option(
        "Also write the lowest and the highest count to be expected at each pixel, ..._low.tif and "
        "..._high.tif: the true count of 90 % of a well's pixels lies between them; and into "
        "manifest.json whether to believe each field.",
        False,
    )
    memory_mb: int = option(
        "Memory that painting a field may take, in MB; 0: three quarters of what is free.",
        0,
        low=0,
        high=10_000_000,
    )
    precision: Literal["auto", "32", "bf16", "int8"] = option(
        "Arithmetic: 32 bit, bf16, or auto, the faster one on this processor; or int8, faster "
        "still by OpenVINO, for models whose networks see no nuclei mask.",
        "auto",
    )
    compile: AutoSwitch = option(
        "Spend some seconds at the start to be faster at every field: auto does so for plates of "
        "16 fields and more.",
        "auto",
    )


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    images: Path = option(
        "Folder of stained TIFFs under the challenge's names, painted or true, or 20x_images in "
        "it; or of OME-Zarr with channels A1, A2 and A3, or 20x.zarr in it."
    )
    out: Path = option("Folder for the tables.", Path("measured"))
    magnification: int = _magnification(
        "Magnification of the folder, where its name does not tell it."
    )
    um_per_px: float = _um_per_px(
        "µm per pixel of the folder; 0: as the images tell, or as is usual."
    )
    plate_map: Path | None = option(
        "CSV of what each well was given: well, role (negative, positive or treated), compound, "
        "concentration with its unit.",
        None,
    )
    csv: bool = option("Write the tables as CSV instead of Parquet.", False)
    labels: bool = option(
        "Also write which pixels belong to which nucleus, cell and droplet, as TIFFs.", False
    )
    workers: int = _judging_workers()
    cluster: str = option(
        "Address of a Ray cluster to measure on, such as 10.0.0.1:6379, whose workers take the "
        "place of workers; empty: this machine.",
        "",
    )
    worker_cpus: int = _worker_cpus(
        "Cores of each worker on the cluster. It computes on one, and has as large a share of its "
        "node's memory as of its cores; 0: all of a node.",
        1,
    )


@dataclass(frozen=True, kw_only=True)
class MainConfig:
    plate: Path = _plate()
    recipe: Recipe = _recipe(default="shared")
    store: Path = _store()
    name: str = _name()
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    out: Path = option(
        "Folder for the simulated plate, its store, summary.json and preview.png.", Path("demo")
    )
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class DemoAppConfig:
    server: str = option("Address of the served model.", "http://127.0.0.1:5001")
    port: int = option("Port of this machine to open the page at.", 7860, low=1, high=65535)
