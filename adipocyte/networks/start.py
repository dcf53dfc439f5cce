"""Starting a training from a network that has learnt already, with other planes or stains."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from adipocyte.errors import ConfigError
from adipocyte.networks.files import load_network, read_spec
from adipocyte.networks.unet import UNetSpec

# From so many times larger or smaller pixels on a start loses: 1.5 cost nothing, 2 and 3 do
# (docs/measurements/training.md).
_UNLIKE = 1.8


@dataclass(frozen=True)
class Start:
    """A trained network on disk: its `folder`, and what each of its outputs paints.

    `paints` has "" for an output that is not known. `sees_mask` says that its last input is the
    segmenter's mask. `source` is the address that it came from, `normalisation` the way of
    `domain.Normalisation` that its planes and stains were brought to its units, "" where unknown.
    It has seen pixels of the sizes `um_per_px`, in µm; there are none where they are unknown.
    """

    folder: Path
    paints: tuple[str, ...]
    sees_mask: bool
    source: str
    normalisation: str = ""
    um_per_px: tuple[float, ...] = ()


def start_from(
    start: Start, network: nn.Module, spec: UNetSpec, targets: Sequence[str], sees_mask: bool
) -> None:
    """Give *network*, built by *spec* to paint *targets*, every weight of *start* that it has.

    With another number of planes it paints what *start* would paint of planes that are interpolated
    along z, so its first layer responds to even light as before. Outputs that *start* has not stay
    as they are. Raises ConfigError when it is another kind of network, or paints none of *targets*;
    BundleError when it is damaged.
    """
    found, trained = load_network(start.folder)
    _require_same(start, found, spec, targets, sees_mask)
    weights, own = trained.state_dict(), network.state_dict()
    first, last = _ends(own, spec, network)
    n_old, n_new = found.in_channels - sees_mask, spec.in_channels - sees_mask
    weights[first] = _with_planes(weights[first], n_old, n_new, found.in_channels)
    for name in last:
        weights[name] = _with_outputs(weights[name], own[name], start.paints, targets)
    network.load_state_dict(weights)


def differences(
    start: Start, n_z_planes: int, normalisation: str, um_per_px: Mapping[int, float]
) -> Iterator[str]:
    """Sentences about a store that is unlike what *start* has learnt from.

    The store has *n_z_planes* and a *normalisation*, a way of `domain.Normalisation`; the network
    is to see pixels of *um_per_px*, in µm by magnification. Raises BundleError when the network is
    damaged.
    """
    n_seen = read_spec(start.folder).in_channels - start.sees_mask
    if n_z_planes < n_seen:
        yield (
            f"{start.source} has learnt from {n_seen} planes, this store has {n_z_planes}: each "
            "plane that is missing costs some accuracy (docs/measurements/shift.md)"
        )
    if start.normalisation not in ("", normalisation):
        yield (
            f"{start.source} has learnt from planes normalised by {start.normalisation}, this "
            f"store normalises by {normalisation}: the training begins with units that it does not "
            f"know. To keep them, prepare the plate with -P normalisation={start.normalisation}"
        )
    known = ", ".join(f"{one:.3g}" for one in start.um_per_px)
    for magnification, size in um_per_px.items():
        if known and all(max(size / one, one / size) > _UNLIKE for one in start.um_per_px):
            largest = max(start.um_per_px)
            remedy = f" (-P finest_um_per_px={largest:.3g})" if size < largest else ""
            yield (
                f"{start.source} has learnt from pixels of {known} µm, this training sees "
                f"{magnification}x in pixels of {size:.3g} µm: it knows shapes in another size"
                f"{remedy}"
            )


def is_same_kind(one: UNetSpec, other: UNetSpec) -> bool:
    """Whether two networks differ in nothing but their numbers of planes and stains."""
    return one == replace(other, in_channels=one.in_channels, out_channels=one.out_channels)


def _require_same(
    start: Start, found: UNetSpec, spec: UNetSpec, targets: Sequence[str], sees_mask: bool
) -> None:
    """Raise ConfigError when a network of *found* cannot give its weights to one of *spec*."""
    if not is_same_kind(found, spec) or start.sees_mask != sees_mask:
        raise ConfigError(
            f"{start.source} is another kind of network than was asked for: "
            f"{_kind(found, start.sees_mask)}, not {_kind(spec, sees_mask)}",
            "give the settings that it was trained with, or another start",
        )
    if not {*start.paints} & {*targets}:
        raise ConfigError(
            f"{start.source} paints {', '.join(filter(None, start.paints))}, "
            f"nothing of {', '.join(targets)}",
            f"-P target={next(filter(None, start.paints))}, or another start",
        )


def _kind(spec: UNetSpec, sees_mask: bool) -> str:
    masked = "true, predicted or mixed" if sees_mask else "none"
    return (
        f"architecture={spec.architecture} encoder={spec.encoder} "
        f"wide_convolutions={spec.wide_convolutions} mask_source={masked}"
    )


def _ends(own: dict[str, Tensor], spec: UNetSpec, network: nn.Module) -> tuple[str, list[str]]:
    """The names of the first layer's kernel, and of the last layer's kernel and bias."""
    if spec.architecture == "compact":
        return "stem.0.weight", ["head.weight", "head.bias"]
    # The first convolution is where the planes go in, whatever an encoder calls it.
    convolutions = [
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    first = next(name for name in convolutions if own[name].shape[1] == spec.in_channels)
    return first, ["segmentation_head.0.weight", "segmentation_head.0.bias"]


def _with_planes(kernel: Tensor, n_old: int, n_new: int, n_channels: int) -> Tensor:
    """The first layer's *kernel* for *n_new* planes instead of *n_old*; a mask stays last.

    Its inputs are (channels, pixels of a block), flattened, so that both kinds of network fit.
    """
    if n_old == n_new:
        return kernel
    blocks = kernel.unflatten(1, (n_channels, -1))
    mixing = torch.zeros(n_old, n_new)
    places = torch.linspace(0, n_new - 1, n_old)
    below = places.floor().long().clamp(max=n_new - 1)
    above = (below + 1).clamp(max=n_new - 1)
    rows = torch.arange(n_old)
    mixing[rows, below] += 1 - (places - below)
    mixing[rows, above] += places - below
    planes = torch.einsum("ozk...,zn->onk...", blocks[:, :n_old], mixing)
    return torch.cat([planes, blocks[:, n_old:]], dim=1).flatten(1, 2).contiguous()


def _with_outputs(
    theirs: Tensor, own: Tensor, paints: Sequence[str], targets: Sequence[str]
) -> Tensor:
    """The last layer's kernel or bias: *theirs* for the stains that they paint, else *own*."""
    their_outputs = theirs.unflatten(0, (len(paints), -1))
    outputs = own.unflatten(0, (len(targets), -1)).clone()
    for output, target in zip(outputs, targets, strict=True):
        if target in paints:
            output.copy_(their_outputs[paints.index(target)])
    return outputs.flatten(0, 1)
