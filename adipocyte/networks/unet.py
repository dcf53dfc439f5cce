"""Networks by their description: segmentation-models-pytorch's (report, 2.1.1, 4.1.2), or ours.

segmentation-models-pytorch and timm are imported where one of theirs is built, because they take
two seconds and 190 MB, and painting with a compact network needs neither.
"""

from dataclasses import dataclass
from typing import cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from adipocyte.errors import ConfigError
from adipocyte.networks.compact import CompactUNet
from adipocyte.networks.memory import PROBE_PX, on_shapes

DIVISOR = 32  # five halvings: both sides of an input must be multiples of this, in pixels


@dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """All that it takes to build the network again.

    `wide_convolutions` says which of the decoder's convolutions (U-Net: ten, U-Net++: twenty-two)
    are 5x5 instead of 3x3: "none" (the segmenter), "all" (the report's generators of A2 and A3) or
    "last" (its generator of A1). `architecture` is "unet", "unetplusplus" or "compact"; the last
    has an `encoder` of its own, called "none", and no wide convolutions.
    """

    encoder: str
    in_channels: int
    out_channels: int = 1
    wide_convolutions: str = "none"
    architecture: str = "unet"


# Those that were found to fit in this process. Finding out takes .2 s, and the networks of a chain,
# or of a bundle that is loaded again, are alike.
_FITTING: set[UNetSpec] = set()


def build_unet(spec: UNetSpec, encoder_weights: str = "none") -> nn.Module:
    """A network from (N, in_channels, Y, X) to (N, out_channels, Y, X), no activation at its end.

    Y and X are multiples of DIVISOR. *encoder_weights* is "none" (random), "imagenet" (fetched by
    segmentation-models-pytorch) or a safetensors file of the encoder's state for three input
    channels. Raises ConfigError when the encoder or its weights cannot be had, or the encoder does
    not fit its decoder.
    """
    if spec.architecture == "compact":
        return _compact(spec, encoder_weights)
    try:
        network = _with_weights(spec, encoder_weights)
    except (KeyError, OSError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"encoder {spec.encoder!r} with weights {encoder_weights!r} cannot be made "
            f"({type(error).__name__}: {str(error)[:200]})",
            "without a network to fetch them from, give -P encoder_weights=none "
            "or -P encoder_weights=<file>.safetensors",
        ) from error
    except (ValueError, AssertionError, TypeError, LookupError, AttributeError) as error:
        raise _unfit(spec, str(error)) from error
    _require_fit(network, spec)
    _widen(network.get_submodule("decoder.blocks"), spec.wide_convolutions)
    return network


def _require_fit(network: nn.Module, spec: UNetSpec) -> None:
    """Run *network* with shapes alone, because some encoders say only there that they do not fit.

    A transformer may take images of one size, an encoder may halve less often than five times.
    """
    if spec in _FITTING:
        return
    try:
        shape = on_shapes(network, spec.in_channels)
    except Exception as error:
        raise _unfit(spec, str(error)) from error
    if shape != (1, spec.out_channels, PROBE_PX, PROBE_PX):
        raise _unfit(spec, f"a field of {PROBE_PX} pixels gives an image of {shape[-1]}")
    _FITTING.add(spec)


def require_batch(network: nn.Module, in_channels: int, share: int, patch_px: int) -> None:
    """Raise ConfigError where *network* cannot learn from *share* patches of *patch_px* at once.

    A normalisation needs more than one value of a channel: two patches, or more than one pixel
    where the sides have been halved five times.
    """
    network.train()
    try:
        on_shapes(network, in_channels, n_images=share, side_px=patch_px)
    except ValueError as error:
        raise ConfigError(
            f"the network cannot learn from {share} patch of {patch_px} pixels at once ({error})",
            "give -P batch=2, or a number of two for each process, or -P patch_px=64",
        ) from error


def _unfit(spec: UNetSpec, said: str) -> ConfigError:
    said = " ".join(said.split())[:200]
    return ConfigError(
        f"encoder {spec.encoder!r} does not fit architecture={spec.architecture} ({said})",
        "give -P encoder=resnet18, or -P architecture=unet, or another encoder of "
        "segmentation-models-pytorch",
    )


def _compact(spec: UNetSpec, encoder_weights: str) -> nn.Module:
    for name, found in (
        ("encoder", spec.encoder),
        ("encoder_weights", encoder_weights),
        ("wide_convolutions", spec.wide_convolutions),
    ):
        if found != "none":
            raise ConfigError(
                f"the compact network was to be made with {name}={found}",
                f"its encoder is its own: give -P {name}=none, or -P architecture=unet",
            )
    return CompactUNet(spec.in_channels, spec.out_channels)


def _with_weights(spec: UNetSpec, encoder_weights: str) -> nn.Module:
    import segmentation_models_pytorch as smp
    from timm.models import adapt_input_conv

    architecture = {"unet": smp.Unet, "unetplusplus": smp.UnetPlusPlus}[spec.architecture]
    network = architecture(
        spec.encoder,
        encoder_weights="imagenet" if encoder_weights == "imagenet" else None,
        in_channels=spec.in_channels,
        classes=spec.out_channels,
    )
    if encoder_weights not in ("none", "imagenet"):
        shapes = {name: own.shape for name, own in network.encoder.state_dict().items()}
        # Only the first convolution, of three channels, may have another shape.
        weights = {
            name: weight
            if weight.shape == shapes[name]
            else adapt_input_conv(spec.in_channels, weight)
            for name, weight in load_file(encoder_weights).items()
        }
        network.encoder.load_state_dict(weights)
    return network


def _widen(blocks: nn.Module, which: str) -> None:
    """Put 5x5 kernels into convolutions of a decoder's *blocks*: "none", the "last" or "all"."""
    from segmentation_models_pytorch.base.modules import Conv2dReLU

    units = [module for module in blocks.modules() if isinstance(module, Conv2dReLU)]
    for unit in {"none": [], "last": units[-1:], "all": units}[which]:
        narrow = cast(nn.Conv2d, unit[0])  # a Conv2dReLU is a convolution, its normalisation, ReLU
        wide = nn.Conv2d(
            narrow.in_channels,
            narrow.out_channels,
            kernel_size=5,
            padding=2,
            bias=narrow.bias is not None,
        )
        # As segmentation-models-pytorch initialises its decoders.
        nn.init.kaiming_uniform_(wide.weight, mode="fan_in", nonlinearity="relu")
        unit[0] = wide
