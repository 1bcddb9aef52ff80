"""Weights of the released Multi-StyleGAN code, as weights of our networks.

Its layers are ours up to factors, which are multiplied into the weights here: all of its weights
are used times sqrt(2 / fan-in), the biases of what modulates times sqrt(2 / features), its leaky
ReLU has no gain, and whatever it enlarges becomes four times fainter.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import Exit, UserError, relative
from experiments.multi_stylegan.discriminator import (
    PUBLISHED,
    Attention,
    Discriminator,
    Residual,
)
from experiments.multi_stylegan.networks import Generator

_ROOT2 = 2**0.5
Weights = Mapping[str, Tensor]


def load_published(path: str | Path) -> tuple[Generator, Discriminator]:
    """Networks of a released checkpoint, in eval mode.

    As released, they make and judge frames in [0, 1] whose last row comes first.

    Args:
        path: of a ``.pt`` file with the state dicts ``generator_ema`` (or ``generator``) and
            ``discriminator``, or of an ``.npz`` with arrays ``generator/*`` and
            ``discriminator/*``. Prefixes of DataParallel are passed over.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    path = Path(path)
    generator, discriminator = _read(path)
    with _of_the_released_code(path):
        return _generator(generator), _discriminator(discriminator)


def take_over(path: Path, generator: Generator, discriminator: Discriminator, sizes: Any) -> str:
    """Loads the weights of a file into networks that were made by its `published_options`.

    Args:
        path: as of `load_published`.
        generator: gets the weights.
        discriminator: gets them, too.
        sizes: options of `MultiStyleGAN`.

    Returns:
        Of what sizes the networks are.

    Raises:
        UserError: as of `load_published`, or the data have more or fewer channels than the networks
            have domains.
    """
    networks = load_published(path)
    made, asked = len(networks[0].constants), sizes.num_channels
    if made != asked:
        problem = f"makes {made} domains, and the data have {asked} channels"
        remedy = "name a data card that has as many with --data.card"
        raise UserError(Exit.USAGE, relative(path), problem, remedy)
    for network, given in zip((generator, discriminator), networks, strict=True):
        network.load_state_dict(given.state_dict())
    frames = f"{made} domains, {sizes.frames} frames of {sizes.image_size} px"
    return f"{frames}; channels {sizes.widths}, of the discriminator {sizes.d_widths}"


def published_options(path: str | Path) -> dict[str, Any]:
    """What `MultiStyleGAN` and its data need to have the networks of such a file.

    Args:
        path: as of `load_published`.

    Returns:
        Options of the command line and their values. Domains are not among them: they are the
        channels of the data card. Simulated frames are as large as those of the networks.

    Raises:
        UserError: as of `load_published`, where the names or shapes of the weights tell.
    """
    path = Path(path)
    generator, discriminator = _read(path)
    with _of_the_released_code(path):
        sizes, d_sizes = _sizes(generator), _d_sizes(discriminator)
        made = sizes.pop("domains") * sizes["frames"]
        if d_sizes["channels"] != made:
            raise ValueError(
                f"{made} images a sequence are made, {d_sizes['channels']} are looked at"
            )
    side, frames = sizes.pop("image_size"), sizes.pop("frames")
    data = {"image_size": side, "frames": frames, "simulated_size": side}
    model = sizes | {"d_widths": d_sizes["widths"], "d_rising": d_sizes["rising"]}
    model |= {"released": True, "d_places": 1, "d_blurs": True}
    # Of its training, for whoever goes on with it. Frames of [0, 1] are twice as far apart in ours:
    # squared gradients at them are a quarter, squared lengths of paths four times what they were,
    # and the released code takes these of the mean over frames.
    model |= {"camera_noise": False, "g_lr": 2e-4, "d_lr": 6e-4, "beta2": 0.999}
    model |= {"r1_weight": 4 * 10.0, "path_length_weight": 2.18e-6 / (4 * frames)}
    options = {f"data.{name}": value for name, value in data.items()}
    return options | {f"model.{name}": value for name, value in model.items()}


@contextmanager
def _of_the_released_code(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        problem = f"holds no networks of the released code ({_brief(error)})"
        raise _unusable(path, problem) from error


def _read(path: Path) -> tuple[Weights, Weights]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files if "/" in name}
            parts: dict[str, dict[str, Any]] = {"generator": {}, "discriminator": {}}
            for name, array in found.items():
                network, _, key = name.partition("/")
                parts.setdefault(network, {})[key] = torch.from_numpy(array)
        else:
            parts = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(
            Exit.INPUT, relative(path), "is not there", "name the file with the weights"
        ) from error
    # Damaged bytes make the unpickler raise whatever they spell.
    except Exception as error:
        raise _unusable(path, f"cannot be read ({_brief(error)})") from error
    if not isinstance(parts, Mapping):
        raise _unusable(path, f"is a {type(parts).__name__}, not a dictionary of networks")
    filled = {name: part for name, part in parts.items() if isinstance(part, Mapping) and part}
    generator = filled.get("generator_ema", filled.get("generator"))
    if generator is None or "discriminator" not in filled:
        raise _unusable(path, "lacks the weights of generator or discriminator")
    found = _bare(generator), _bare(filled["discriminator"])
    for name, tensor in [pair for weights in found for pair in weights.items()]:
        if not bool(torch.isfinite(tensor).all()):
            raise _unusable(path, f"holds NaN or Inf in {name}")
    return found


def _bare(weights: Weights) -> Weights:
    """In float32, without what DataParallel puts before each name."""
    return {
        re.sub(r"^(module\.)+", "", name): tensor.float()
        for name, tensor in weights.items()
        if isinstance(tensor, Tensor)
    }


def _sizes(given: Weights) -> dict[str, Any]:
    """Arguments of our generator."""
    levels = 1 + len(_numbered(given, r"output_blocks_1\.(\d+)\.bias"))
    mapping = _mapping_layers(given)
    style_dim, latent_dim = given[f"style_mapping.layers.{mapping[0]}.weight"].shape
    return {
        "image_size": 4 << (levels - 1),
        "domains": len(_numbered(given, r"constant_input_(\d+)\.input")),
        "frames": given["starting_output_block_1.modulated_convolution.weight"].shape[1],
        "latent_dim": latent_dim,
        "style_dim": style_dim,
        "widths": [len(given[f"{_conv(1, 2 * k)}.weight"][0]) for k in range(levels)],
        "mapping_layers": len(mapping),
        "wiring": "published",
    }


def _mapping_layers(given: Weights) -> list[int]:
    return list(_numbered(given, r"style_mapping\.layers\.(\d+)\.weight"))


def _generator(given: Weights) -> Generator:
    sizes = _sizes(given)
    network = Generator(**sizes)
    levels, paths, frames = len(sizes["widths"]), sizes["domains"], sizes["frames"]
    found: dict[str, Tensor] = {"mapping.average": torch.zeros(sizes["style_dim"])}
    speed = network.mapping.layers[0].lr_multiplier
    for k, number in enumerate(_mapping_layers(given)):
        names = (f"style_mapping.layers.{number}.weight", f"style_mapping.layers.{number + 1}.bias")
        found[f"mapping.layers.{k}.weight"] = given[names[0]] / speed
        found[f"mapping.layers.{k}.bias"] = given[names[1]] / _ROOT2 / speed
    constants = [given[f"constant_input_{d + 1}.input"] for d in range(paths)]
    found["constants"] = torch.cat(constants)
    for level in range(levels):
        found |= _level(given, level, levels, paths, frames)
    found["noise"] = torch.cat([_noise(given, k) for k in range(2 * levels - 1)])
    network.load_state_dict(found)
    _find_average(network)
    return network.eval()


def _level(given: Weights, level: int, levels: int, paths: int, frames: int) -> dict[str, Tensor]:
    """One level of our generator. Its features are sqrt(2) times those of the layer before more."""
    found = {}
    layers = [0] if level == 0 else [2 * level - 1, 2 * level]
    for k, layer in enumerate(layers):
        found |= _affine(
            given, f"{_conv(1, layer)}.modulation_mapping", f"levels.{level}.affines.{k}"
        )
        for d in range(paths):
            name, ours = _block(d + 1, layer), f"levels.{level}.paths.{d}.{k}"
            weight = given[f"{name}.modulated_convolution.weight"][0]
            # Transposed convolutions apply their kernel mirrored.
            found[f"{ours}.weight"] = weight.flip(2, 3) if weight.shape[-1] == 2 else weight
            found[f"{ours}.bias"] = given[f"{name}.activation.bias"] * _ROOT2**layer
            strength = given[f"{name}.noise_injection.weight"] * _ROOT2**layer
            found[f"{ours}.strength"] = strength.squeeze()
    block = "modulated_convolution.modulation_mapping"
    affine = f"levels.{level}.affines.{len(layers)}"
    found |= _affine(given, f"{_output(1, level)}.{block}", affine)
    # What is enlarged later becomes fainter each time.
    share = 0.25 ** (levels - 1 - level)
    for d in range(paths):
        name, ours = _output(d + 1, level), f"levels.{level}.frames.{d}"
        weight = given[f"{name}.modulated_convolution.weight"][0]
        found[f"{ours}.weight"] = weight * share * _ROOT2 / _ROOT2 ** (layers[-1] + 1)
        found[f"{ours}.bias"] = given[f"{name}.bias"].flatten().expand(frames) * share
    return found


def _affine(given: Weights, name: str, ours: str) -> dict[str, Tensor]:
    weight, bias = given[f"{name}.weight"], given[f"{name}.bias"]
    return {f"{ours}.weight": weight * _ROOT2, f"{ours}.bias": bias * (2 / len(bias)) ** 0.5}


def _block(path: int, layer: int) -> str:
    name = f"main_convolutions_{path}.{layer - 1}"
    return f"starting_convolution_{path}" if layer == 0 else name


def _conv(path: int, layer: int) -> str:
    return f"{_block(path, layer)}.modulated_convolution"


def _output(path: int, level: int) -> str:
    return f"starting_output_block_{path}" if level == 0 else f"output_blocks_{path}.{level - 1}"


def _noise(given: Weights, layer: int) -> Tensor:
    return given["noises.noise_start" if layer == 0 else f"noises.noise_{layer - 1}"].flatten()


def _find_average(network: Generator, count: int = 10_000) -> None:
    """The released code truncates nowhere, and keeps no average to truncate towards."""
    z = torch.randn(
        count, network.mapping.layers[0].weight.shape[1], generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        network.eval()
        network.mapping.average.copy_(network.mapping(z)[:, 0].mean(0))


def _d_sizes(given: Weights) -> dict[str, Any]:
    """Arguments of our discriminator."""
    lasts = _numbered(given, r"encoder_blocks\.(\d+)\.(?:main_mapping\.2|o)\.weight")
    from_below = _numbered(given, r"transposed_convolutions\.(\d+)\.1\.weight")
    return {
        "channels": given["encoder_blocks.0.main_mapping.0.weight"].shape[1],
        "widths": [len(given[name]) for name in lasts.values()],
        "rising": [len(given[name]) for name in from_below.values()],
    }


def _discriminator(given: Weights) -> Discriminator:
    sizes = _d_sizes(given)
    network, widths = Discriminator(**sizes, **PUBLISHED), sizes["widths"]
    found: dict[str, Tensor] = {}
    for side, ours in (("encoder_blocks", "encoder"), ("decoder_blocks", "decoder")):
        for k, block in enumerate(getattr(network, ours)):
            found |= _u_net_block(given, f"{side}.{k}", f"{ours}.{k}", block)
    for k in range(len(widths) - 1):
        name = f"downscale_convolutions.{k}.0"
        found |= {f"down.{k}.weight": given[f"{name}.weight"] * _ROOT2}
        found[f"down.{k}.bias"] = given[f"{name}.bias"] * (2 / widths[k]) ** 0.5
        found[f"up.{k}.weight"] = given[f"transposed_convolutions.{k}.1.weight"] * _ROOT2 / 4
    found["head.0.weight"] = given["classification_head.2.weight"]
    found["head.0.bias"] = given["classification_head.3.bias"] / _ROOT2
    found["head.1.weight"] = given["classification_head.4.weight"] * _ROOT2
    found["head.1.bias"] = torch.zeros(1)
    found["pixel_bias"] = given["final_mapping.0.bias"]
    found["pixel_head.weight"] = given["final_mapping.1.weight"]
    network.load_state_dict(found)
    return network.eval()


def _u_net_block(
    given: Weights, name: str, ours: str, block: Residual | Attention
) -> dict[str, Tensor]:
    after, before, *_ = block.beside.weight.shape
    # Where both are as many, the released code adds the input as it is.
    same = _ROOT2 / 2 * before**0.5 * torch.eye(after, before)[..., None, None]
    beside = given.get(f"{name}.residual_mapping.weight", same)
    found = {f"{ours}.beside.weight": beside * _ROOT2}
    if isinstance(block, Attention):
        pairs = (("theta", "query"), ("phi", "key"), ("g", "value"), ("o", "mix"))
        found |= {f"{ours}.{b}.weight": given[f"{name}.{a}.weight"] * _ROOT2 for a, b in pairs}
        return found | {f"{ours}.strength": given[f"{name}.gamma"]}
    for number, layer in ((0, "first"), (2, "second")):
        found[f"{ours}.{layer}.weight"] = given[f"{name}.main_mapping.{number}.weight"]
        found[f"{ours}.{layer}.bias"] = given[f"{name}.main_mapping.{number + 1}.bias"] / _ROOT2
    return found


def _numbered(given: Weights, pattern: str) -> dict[int, str]:
    """Names that match, by the number in them and in its order."""
    found = (re.fullmatch(pattern, name) for name in given)
    return dict(sorted((int(match[1]), match[0]) for match in found if match))


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _unusable(path: Path, problem: str) -> UserError:
    remedy = "name a checkpoint of the released code, or an .npz of its weights"
    return UserError(Exit.CHECKPOINT, relative(path), problem, remedy)
