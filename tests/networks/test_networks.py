"""The networks are the report's, their losses the papers', and disk keeps them bit for bit."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from adipocyte.errors import BundleError, ConfigError
from adipocyte.networks.discriminator import Discriminator
from adipocyte.networks.files import load_network, save_network
from adipocyte.networks.losses import (
    adversarial_loss,
    azimuthal_spectrum,
    discriminator_loss,
    spectral_loss,
)
from adipocyte.networks.unet import UNetSpec, build_unet, require_batch

SMALL = UNetSpec(encoder="resnet18", in_channels=7)
COMPACT = UNetSpec(encoder="none", in_channels=7, architecture="compact")
SIDES = st.integers(2, 17)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_unet(SMALL).eval()


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


# Sizes


@pytest.mark.parametrize(
    ("in_channels", "wide_convolutions", "n_parameters"),
    [
        (7, "none", 67_169_425),  # Table 4.2: segmenter
        (7, "all", 83_188_881),  # Table 4.2: generators of A2 and A3
        (7, "last", 67_173_521),  # Table 4.2: generator of A1, counted without its mask
        (8, "last", 67_176_657),  # Table 4.1: with its mask, 64 kernels of 7 x 7 more
    ],
)
def test_the_networks_have_the_sizes_of_the_report(in_channels, wide_convolutions, n_parameters):
    with torch.device("meta"):  # shapes without numbers
        network = build_unet(
            UNetSpec(
                encoder="resnet152", in_channels=in_channels, wide_convolutions=wide_convolutions
            )
        )
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trained) == n_parameters


@pytest.mark.parametrize(("wide", "n_wide"), [("none", 0), ("last", 1), ("all", 10)])
def test_wide_convolutions_keep_the_size_of_the_image(wide, n_wide):
    network = build_unet(UNetSpec(encoder="resnet18", in_channels=7, wide_convolutions=wide)).eval()
    kernels = [
        module.kernel_size
        for module in network.decoder.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    assert (kernels.count((5, 5)), len(kernels)) == (n_wide, 10)
    assert network(images(1, 7, 64, 32)).shape == (1, 1, 64, 32)


@pytest.mark.parametrize(("n_in", "n_out"), [(7, 3), (8, 1)])
def test_the_compact_network_answers_with_images_of_the_same_size(n_in, n_out):
    network = build_unet(replace(COMPACT, in_channels=n_in, out_channels=n_out)).eval()
    assert network(images(2, n_in, 64, 32)).shape == (2, n_out, 64, 32)


def test_no_convolution_of_the_compact_network_works_at_full_size():
    sides = []
    network = build_unet(COMPACT)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, __: sides.append(inputs[0].shape[-1]))
    network(images(2, 7, 64, 64))
    assert max(sides) == 32
    assert min(sides) == 4


def test_each_pixel_of_a_block_is_painted_by_itself():
    network = build_unet(COMPACT).eval()
    source = images(1, 7, 64, 64)
    painted = network(source)
    source[0, :, 20, 20] += 1
    changed = (network(source) - painted).abs()[0, 0]
    assert (changed[20:22, 20:22].unique().numel(), changed[20, 20] > 0) == (4, True)


@pytest.mark.parametrize("setting", ["encoder", "wide_convolutions", "encoder_weights"])
def test_the_compact_network_takes_no_other_encoder(setting):
    given = {"encoder_weights": "imagenet"}
    spec = COMPACT
    if setting != "encoder_weights":
        given, spec = {}, replace(COMPACT, **{setting: "resnet18"})
    with pytest.raises(ConfigError, match=f"made with {setting}=.*give -P {setting}=none, or -P"):
        build_unet(spec, **given)


@pytest.mark.parametrize(("wide", "n_wide"), [("none", 0), ("last", 1), ("all", 22)])
def test_unet_plus_plus_answers_with_an_image_of_the_same_size(wide, n_wide):
    network = build_unet(
        UNetSpec(
            encoder="resnet18", in_channels=8, wide_convolutions=wide, architecture="unetplusplus"
        )
    ).eval()
    kernels = [
        module.kernel_size
        for module in network.decoder.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    assert (kernels.count((5, 5)), len(kernels)) == (n_wide, 22)
    assert isinstance(network, smp.UnetPlusPlus)
    assert network(images(1, 8, 64, 32)).shape == (1, 1, 64, 32)


def test_a_patchgan_scores_patches_of_70_pixels():
    discriminator = Discriminator(condition_channels=7, width=4, kind="patchgan")
    source, image = images(1, 7, 128, 96), images(1, 1, 128, 96, seed=1).requires_grad_()
    scores = discriminator(source, image)
    assert scores.shape == (1, 1, 128 // 8 - 2, 96 // 8 - 2)
    (gradient,) = torch.autograd.grad(scores[0, 0, 6, 5], image)
    seen = np.argwhere(gradient[0, 0].numpy() != 0)
    np.testing.assert_array_equal(np.ptp(seen, axis=0) + 1, [70, 70])


def test_the_discriminator_gives_one_number_for_each_pair_of_any_size():
    discriminator = Discriminator(condition_channels=8, width=4)
    assert discriminator(images(3, 8, 33, 70), images(3, 1, 33, 70)).shape == (3, 1)
    kernels = [module for module in discriminator.modules() if isinstance(module, torch.nn.Conv2d)]
    assert {kernel.kernel_size for kernel in kernels} == {(3, 3)}  # Table 4.1
    assert kernels[0].in_channels == 9  # condition and image together


# Losses


def numpy_spectrum(image: np.ndarray) -> np.ndarray:
    """The azimuthal spectrum of a (Y, X) image, ring by ring and pixel by pixel, in float64."""
    height, width = image.shape
    power = np.abs(np.fft.fft2(image.astype(np.float64))) ** 2 / image.size
    rings: dict[int, list[float]] = {}
    for y in range(height):
        for x in range(width):
            down = (y + height // 2) % height - height // 2
            across = (x + width // 2) % width - width // 2
            rings.setdefault(int(math.hypot(down, across)), []).append(power[y, x])
    return np.array([np.log1p(np.mean(rings[ring])) for ring in range(min(height, width) // 2)])


@settings(max_examples=30)
@given(height=SIDES, width=SIDES, scale=st.floats(0.1, 100))
def test_the_spectrum_of_an_image_of_any_size_is_that_of_the_definition(height, width, scale):
    image = images(2, 1, height, width) * scale
    expected = np.stack([numpy_spectrum(one) for one in image.numpy()[:, 0]])
    # float32 transforms are off by some 1e-6 of the largest power, which leaks into weak rings.
    np.testing.assert_allclose(azimuthal_spectrum(image).numpy(), expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(height=SIDES, width=SIDES, n=st.integers(1, 3))
def test_the_spectral_loss_is_that_of_the_definition_over_the_whole_batch(height, width, n):
    fake, real = images(n, 1, height, width, seed=1), 3 * images(n, 1, height, width, seed=2)
    spectra = [
        (numpy_spectrum(a), numpy_spectrum(b))
        for a, b in zip(fake.numpy()[:, 0], real.numpy()[:, 0], strict=True)
    ]
    expected = np.mean([np.abs(a - b) / b.max() for a, b in spectra])
    np.testing.assert_allclose(spectral_loss(fake, real), expected, rtol=1e-3, atol=1e-5)


@given(height=SIDES, width=SIDES)
def test_the_spectral_loss_of_equal_images_is_zero_and_of_others_is_not(height, width):
    image = images(2, 1, height, width)
    assert spectral_loss(image, image) == 0
    # Moving an image round does not change its powers.
    assert spectral_loss(image.roll(1, dims=-1), image) < 1e-4
    assert spectral_loss(2 * image, image) > 0.01
    assert torch.isfinite(spectral_loss(image, torch.zeros_like(image)))


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (2, 1, 9, 12)])
def test_the_spectral_loss_has_the_gradient_of_its_finite_differences(shape):
    fake, real = images(*shape, seed=1).requires_grad_(), images(*shape, seed=2)
    (gradient,) = torch.autograd.grad(spectral_loss(fake, real), fake)
    assert gradient.abs().sum() > 0
    with torch.no_grad():
        for seed in range(5):
            direction = images(*shape, seed=10 + seed)
            # float32: smaller steps drown in rounding (1e-7 / 1e-3), larger ones in curvature.
            step = 1e-3
            ahead = spectral_loss(fake + step * direction, real)
            behind = spectral_loss(fake - step * direction, real)
            slope = (ahead - behind) / (2 * step)
            torch.testing.assert_close((gradient * direction).sum(), slope, rtol=0.02, atol=1e-3)


def test_every_image_of_a_batch_gets_its_gradient_in_bf16_too():
    fake = images(3, 1, 16, 16, seed=1).bfloat16().requires_grad_()
    real = images(3, 1, 16, 16, seed=2)
    spectral_loss(fake, real).backward()
    assert (fake.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


@given(st.integers(1, 5), st.floats(-2, 2), st.floats(-2, 2))
def test_adversarial_losses_are_those_of_least_squares(n, on_real, on_fake):
    real = torch.full((n, 1), on_real, dtype=torch.float64)
    fake = torch.full((n, 1), on_fake, dtype=torch.float64)
    expected = ((on_real - 1) ** 2 + on_fake**2) / 2
    torch.testing.assert_close(discriminator_loss(real, fake).item(), expected)
    torch.testing.assert_close(adversarial_loss(fake).item(), (on_fake - 1) ** 2)


def test_a_perfect_discriminator_and_a_perfect_forger_have_no_loss():
    assert discriminator_loss(torch.ones(4, 1), torch.zeros(4, 1)) == 0
    assert adversarial_loss(torch.ones(4, 1)) == 0


# On disk


@pytest.mark.parametrize("wide", ["none", "last", "all"])
@pytest.mark.parametrize("architecture", ["unet", "unetplusplus"])
def test_a_network_saved_and_loaded_is_the_same_bit_for_bit(tmp_path, architecture, wide):
    spec = UNetSpec(
        encoder="resnet18", in_channels=8, wide_convolutions=wide, architecture=architecture
    )
    saved = build_unet(spec).to(memory_format=torch.channels_last)
    saved.train()(images(2, 8, 32, 32))  # moves the running statistics of the normalisation
    save_network(tmp_path / "network", spec, saved)
    loaded_spec, loaded = load_network(tmp_path / "network")
    assert loaded_spec == spec
    assert not loaded.training
    assert sorted(path.name for path in (tmp_path / "network").iterdir()) == [
        "network.json",
        "weights.safetensors",
    ]
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    assert all(
        torch.equal(tensor, saved.state_dict()[name])
        for name, tensor in loaded.state_dict().items()
    )


@pytest.mark.parametrize("name", ["network.json", "weights.safetensors"])
@pytest.mark.parametrize(
    "damage",
    [
        None,
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\xff" * 32 + data[32:],
    ],
)
def test_a_damaged_network_is_refused_with_its_folder(tmp_path, network, name, damage):
    save_network(tmp_path, SMALL, network)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if damage is not None:
        (tmp_path / name).write_bytes(damage(data))
    with pytest.raises(
        BundleError, match=rf"the network in {tmp_path} cannot be loaded \(.*\): train it again"
    ):
        load_network(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "resnet34"},
        {"encoder": "nosuch"},
        {"encoder": 7},
        {"in_channels": 8},
        {"in_channels": "seven"},
        {"wide_convolutions": "all"},
        {"wide_convolutions": "some"},
        {"novelty": 1},
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_the_weights_is_refused(tmp_path, network, change):
    save_network(tmp_path, SMALL, network)
    spec = json.loads((tmp_path / "network.json").read_text())
    (tmp_path / "network.json").write_text(json.dumps({**spec, **change}))
    with pytest.raises(BundleError, match="cannot be loaded"):
        load_network(tmp_path)


@pytest.mark.parametrize("text", ["[]", "7", '"resnet18"', "null", "{}"])
def test_a_description_without_a_network_is_refused(tmp_path, network, text):
    save_network(tmp_path, SMALL, network)
    (tmp_path / "network.json").write_text(text)
    with pytest.raises(BundleError, match="cannot be loaded"):
        load_network(tmp_path)


# Encoder weights


@pytest.mark.parametrize(
    ("name", "first"),
    [("resnet18", "conv1.weight"), ("tu-tf_efficientnet_lite0", "model.conv_stem.weight")],
)
def test_encoder_weights_from_a_file_are_loaded_and_spread_over_the_channels(name, first, tmp_path):
    encoder = smp.encoders.get_encoder(name, in_channels=3, weights=None)
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    spec = UNetSpec(encoder=name, in_channels=7)
    loaded = build_unet(spec, str(tmp_path / "encoder.safetensors")).encoder.state_dict()
    for name, tensor in encoder.state_dict().items():
        if name == first:
            # Channel i takes the weights of colour i mod 3, scaled so that the sum keeps its size.
            tensor = tensor[:, [0, 1, 2, 0, 1, 2, 0]] * 3 / 7
        torch.testing.assert_close(loaded[name], tensor)


@pytest.mark.parametrize(
    "content", [None, b"", b"no safetensors"], ids=["missing", "empty", "damaged"]
)
def test_an_encoder_file_that_cannot_be_read_is_refused_with_the_way_on(tmp_path, content):
    path = tmp_path / "encoder.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        ConfigError,
        match=rf"encoder 'resnet18' with weights '{path}' cannot be made "
        ".* -P encoder_weights=none",
    ):
        build_unet(SMALL, str(path))


def test_an_encoder_file_of_another_encoder_is_refused(tmp_path):
    save_file(
        smp.encoders.get_encoder("resnet34", weights=None).state_dict(),
        tmp_path / "encoder.safetensors",
    )
    with pytest.raises(ConfigError, match=r"encoder 'resnet18' with weights .* cannot be made"):
        build_unet(SMALL, str(tmp_path / "encoder.safetensors"))


def test_imagenet_weights_that_cannot_be_fetched_are_refused_with_the_way_on(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ConfigError,
        match=r"with weights 'imagenet' cannot be made "
        r".* -P encoder_weights=none or .*<file>\.safetensors",
    ):
        build_unet(SMALL, "imagenet")


@pytest.mark.parametrize("encoder", ["nosuch", "tu-nosuch", ""])
def test_an_unknown_encoder_is_refused_by_name(encoder):
    with pytest.raises(
        ConfigError, match=f"encoder '{encoder}' with weights 'none' cannot be made"
    ):
        build_unet(UNetSpec(encoder=encoder, in_channels=7))


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("unetplusplus", "mit_b0"),
        ("unet", "tu-vit_tiny_patch16_224"),
        ("unet", "tu-swin_tiny_patch4_window7_224"),
    ],
)
def test_an_encoder_that_does_not_fit_its_decoder_is_refused_as_it_is_built(architecture, encoder):
    with pytest.raises(
        ConfigError, match=f"encoder '{encoder}' does not fit architecture={architecture} "
    ) as refusal:
        build_unet(UNetSpec(encoder=encoder, in_channels=7, architecture=architecture))
    assert "-P encoder=resnet18" in refusal.value.remedy


def test_a_patch_too_small_to_normalise_is_refused_with_what_would_do():
    network = build_unet(SMALL)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ConfigError, match=r"1 patch of 32 pixels at once .* -P batch=2"):
        require_batch(network, 7, 1, 32)
    for share, patch_px in ((2, 32), (1, 64)):
        require_batch(network, 7, share, patch_px)
    require_batch(build_unet(COMPACT), 7, 1, 32)
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
