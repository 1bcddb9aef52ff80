"""What the released Multi-StyleGAN code computes, in plain torch operators, from its own weights.

A second implementation beside `networks.py` and `discriminator.py`: tests compare the two, and the
benchmark compares their speed. As there, every sample convolves with weights of its own, an image
is enlarged by zeros and filtered channel by channel, and the layers of the second path are
computed although nothing reads them.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]
_ROOT2 = 2**0.5
_SLOPE = 0.2


def generate(
    weights: Weights, z: Tensor | Sequence[Tensor], inject_index: int = 0, fresh: bool = False
) -> Tensor:
    """Frames [B, domains, frames, S, S].

    Args:
        weights: of the generator, by the names of the released code.
        z: latent vectors [B, latent_dim], or two whose styles are mixed.
        inject_index: of two, the first gives as many styles.
        fresh: whether noise is drawn anew; else it is that of the weights.
    """
    latents = [z] if isinstance(z, Tensor) else list(z)
    styles = [map_latents(weights, one) for one in latents]
    return synthesize(weights, styles[0], styles[-1], inject_index, fresh)


def map_latents(weights: Weights, z: Tensor) -> Tensor:
    """Styles w [B, style_dim] of latent vectors z [B, latent_dim]."""
    x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    number = 1
    while f"style_mapping.layers.{number}.weight" in weights:
        x = _linear(x, weights[f"style_mapping.layers.{number}.weight"])
        x = F.leaky_relu(x + weights[f"style_mapping.layers.{number + 1}.bias"], _SLOPE)
        number += 2
    return x


def synthesize(
    weights: Weights, first: Tensor, others: Tensor, inject_index: int = 0, fresh: bool = False
) -> Tensor:
    """Frames of styles [B, style_dim]: of the first up to ``inject_index``, then of the others."""
    layers = sum(name.startswith("noises.") for name in weights)
    paths = sum(name.startswith("constant_input_") for name in weights)

    def style(slot: int) -> Tensor:
        return first if slot < inject_index else others

    features = []
    for path in range(1, paths + 1):
        x = weights[f"constant_input_{path}.input"].expand(len(first), -1, -1, -1)
        found = []
        for layer in range(layers):
            x = _layer(weights, x, style(layer), path, layer, fresh)
            found += [x] if layer % 2 == 0 else []
        features.append(found)
    images = []
    for path in range(1, paths + 1):
        image = None
        for level in range(len(features[0])):
            read = features[path - 1 if level == 0 else 0][level]
            part = _output(weights, read, style(2 * level + 1), path, level)
            image = part if image is None else part + _enlarged(weights, image, path, level)
        images.append(image)
    return torch.stack(images, 1)


def judge(weights: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, 1] and [B, 1, 1, S, S] of sequences [B, domains, frames, S, S].

    Args:
        weights: of the discriminator, by the names of the released code.
        x: the sequences.
    """
    blocks = 1 + sum(n.startswith("transposed_convolutions") and "weight" in n for n in weights)
    x, beside = x.flatten(1, 2), []
    for k in range(blocks):
        name = f"encoder_blocks.{k}"
        attends = f"{name}.gamma" in weights
        varies = not attends and k >= blocks - 2
        x = _attention(weights, x, name) if attends else _residual(weights, x, name, varies)
        if k < blocks - 1:
            beside.append(x)
            x = _halved(weights, x, f"downscale_convolutions.{k}")
    head = _linear(x.mean((2, 3)), weights["classification_head.2.weight"])
    head = F.leaky_relu(head + weights["classification_head.3.bias"], _SLOPE)
    logit = _linear(head, weights["classification_head.4.weight"])
    for k in range(blocks - 1):
        name, up = f"decoder_blocks.{k}", f"transposed_convolutions.{k}"
        x = _filtered(x, weights[f"{up}.0.kernel"], 2, (2, 1))
        x = torch.cat([_convolved(x, weights[f"{up}.1.weight"]), beside.pop()], 1)
        attends = f"{name}.gamma" in weights
        x = _attention(weights, x, name) if attends else _residual(weights, x, name, False)
    x = F.leaky_relu(x + _as_map(weights["final_mapping.0.bias"]), _SLOPE)
    return logit, _convolved(x, weights["final_mapping.1.weight"])[:, None]


def random_weights(
    widths: Sequence[int],
    d_widths: Sequence[int],
    latent_dim: int,
    mapping_layers: int,
    frames: int = 3,
    domains: int = 2,
    d_rising: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of generator and discriminator from N(0, 1), by the names of the released code.

    Args:
        widths: channels of each path at 4, 8, ... pixels.
        d_widths: channels of the discriminator's encoder.
        latent_dim: of z and w.
        mapping_layers: from z to w.
        frames: of a sequence.
        domains: how many.
        d_rising: channels from below into the blocks of the discriminator's decoder, from the
            coarsest on; None is the difference of neighbouring ``d_widths``, as published.
        seed: of all numbers.
    """
    source = torch.Generator().manual_seed(seed)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    # What follows a transposed convolution has the gain 4, all other filters have 1.
    filters = {gain: gain * taps.outer(taps) / 64 for gain in (1, 4)}

    def filled(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        found = {
            name: torch.randn(tuple(shape), generator=source) for name, shape in shapes.items()
        }
        kernels = [name for name in shapes if name.endswith("kernel")]
        return found | {name: filters[4 if "main_conv" in name else 1] for name in kernels}

    generator = _generator_shapes(widths, latent_dim, mapping_layers, frames, domains)
    return filled(generator), filled(_discriminator_shapes(d_widths, d_rising, frames * domains))


def _generator_shapes(
    widths: Sequence[int], latent_dim: int, mapping_layers: int, frames: int, domains: int
) -> dict[str, Sequence[int]]:
    found: dict[str, Sequence[int]] = {}
    for k in range(1, 2 * mapping_layers, 2):
        found[f"style_mapping.layers.{k}.weight"] = (latent_dim, latent_dim)
        found[f"style_mapping.layers.{k + 1}.bias"] = (latent_dim,)
    for layer in range(2 * len(widths) - 1):
        side = 4 << ((layer + 1) // 2)
        name = "noise_start" if layer == 0 else f"noise_{layer - 1}"
        found[f"noises.{name}"] = (1, 1, side, side)
    for path in range(1, domains + 1):
        found[f"constant_input_{path}.input"] = (1, widths[0], 4, 4)
        modulated: list[tuple[str, Sequence[int]]] = []
        for layer in range(2 * len(widths) - 1):
            level, up = (layer + 1) // 2, layer % 2
            name = _named(path, layer, "starting_convolution", "main_convolutions")
            before, side = widths[level - up], 3 - up
            modulated.append((name, (1, widths[level], before, side, side)))
            found[f"{name}.noise_injection.weight"] = (1,)
            found[f"{name}.activation.bias"] = (widths[level],)
            if up:
                found[f"{name}.modulated_convolution.blur.kernel"] = (4, 4)
        for level, width in enumerate(widths):
            name = _named(path, level, "starting_output_block", "output_blocks")
            modulated.append((name, (1, frames, width, 1, 1)))
            found[f"{name}.bias"] = (1, 1, 1, 1)
            if level:
                found[f"{name}.upsampling.kernel"] = (4, 4)
        for name, shape in modulated:
            found[f"{name}.modulated_convolution.weight"] = shape
            if path == 1:
                # Both paths are modulated by what the first one has.
                mapping = f"{name}.modulated_convolution.modulation_mapping"
                found[f"{mapping}.weight"] = (shape[2], latent_dim)
                found[f"{mapping}.bias"] = (shape[2],)
    return found


def _discriminator_shapes(
    widths: Sequence[int], rising: Sequence[int] | None, channels: int
) -> dict[str, Sequence[int]]:
    found: dict[str, Sequence[int]] = {}
    for k, (before, after) in enumerate(pairwise([channels, *widths])):
        varies = k >= len(widths) - 2
        found |= _block_shapes(f"encoder_blocks.{k}", before, after, k == 2, varies)
        if k < len(widths) - 1:
            name = f"downscale_convolutions.{k}"
            found[f"{name}.0.weight"] = (after, after, 3, 3)
            found |= {f"{name}.0.bias": (after,), f"{name}.1.kernel": (4, 4)}
    for k, (below, beside) in enumerate(pairwise(widths[::-1])):
        risen = rising[k] if rising else below - beside
        found |= _block_shapes(f"decoder_blocks.{k}", risen + beside, beside, k == 1, False)
        name = f"transposed_convolutions.{k}"
        found |= {f"{name}.0.kernel": (4, 4), f"{name}.1.weight": (risen, below, 1, 1)}
    found["classification_head.2.weight"] = (128, widths[-1])
    found["classification_head.3.bias"] = (128,)
    found["classification_head.4.weight"] = (1, 128)
    found["final_mapping.0.bias"] = (widths[0],)
    found["final_mapping.1.weight"] = (1, widths[0], 1, 1)
    return found


def _block_shapes(
    name: str, before: int, after: int, attends: bool, varies: bool
) -> dict[str, Sequence[int]]:
    found: dict[str, Sequence[int]] = {}
    if before != after:
        found[f"{name}.residual_mapping.weight"] = (after, before, 1, 1)
    if attends:
        sizes = {"theta": (after // 8, before), "phi": (after // 8, before)}
        sizes |= {"g": (after // 2, before), "o": (after, after // 2)}
        found |= {f"{name}.{part}.weight": (*size, 1, 1) for part, size in sizes.items()}
        return found | {f"{name}.gamma": ()}
    for number, size in ((0, before + varies), (2, after)):
        found[f"{name}.main_mapping.{number}.weight"] = (after, size, 3, 3)
        found[f"{name}.main_mapping.{number + 1}.bias"] = (after,)
    return found


def _named(path: int, number: int, first: str, others: str) -> str:
    return f"{first}_{path}" if number == 0 else f"{others}_{path}.{number - 1}"


def _layer(w: Weights, x: Tensor, style: Tensor, path: int, layer: int, fresh: bool) -> Tensor:
    own, shared = (_named(p, layer, "starting_convolution", "main_convolutions") for p in (path, 1))
    weight = w[f"{own}.modulated_convolution.weight"]
    scales = _modulation(w, f"{shared}.modulated_convolution.modulation_mapping", style)
    x = _modulated(x, weight, scales, demodulate=True)
    if weight.shape[-1] == 2:
        x = _filtered(x, w[f"{own}.modulated_convolution.blur.kernel"], 1, (2, 1))
    noise = w["noises.noise_start" if layer == 0 else f"noises.noise_{layer - 1}"]
    noise = torch.randn_like(x[:, :1]) if fresh else noise
    x = x + w[f"{own}.noise_injection.weight"] * noise
    return F.leaky_relu(x + _as_map(w[f"{own}.activation.bias"]), _SLOPE)


def _output(w: Weights, x: Tensor, style: Tensor, path: int, level: int) -> Tensor:
    own, shared = (_named(p, level, "starting_output_block", "output_blocks") for p in (path, 1))
    scales = _modulation(w, f"{shared}.modulated_convolution.modulation_mapping", style)
    weight = w[f"{own}.modulated_convolution.weight"]
    return _modulated(x, weight, scales, demodulate=False) + w[f"{own}.bias"]


def _enlarged(w: Weights, image: Tensor, path: int, level: int) -> Tensor:
    kernel = f"output_blocks_{path}.{level - 1}.upsampling.kernel"
    return _filtered(image, w[kernel], 2, (2, 1))


def _modulation(w: Weights, name: str, style: Tensor) -> Tensor:
    bias = w[f"{name}.bias"]
    return _linear(style, w[f"{name}.weight"]) + bias * (2 / len(bias)) ** 0.5


def _modulated(x: Tensor, weight: Tensor, scales: Tensor, demodulate: bool) -> Tensor:
    """One grouped convolution, in which each sample is a group."""
    batch, kernel = len(x), weight.shape[-1]
    weight = weight * _ROOT2 / weight[0, 0].numel() ** 0.5 * scales[:, None, :, None, None]
    if demodulate:
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    image = x.flatten(0, 1)[None]
    if kernel == 2:
        image = F.conv_transpose2d(
            image, weight.transpose(1, 2).flatten(0, 1), stride=2, groups=batch
        )
    else:
        image = F.conv2d(image, weight.flatten(0, 1), padding=kernel // 2, groups=batch)
    return image[0].unflatten(0, (batch, -1))


def _residual(w: Weights, x: Tensor, name: str, varies: bool) -> Tensor:
    y = x
    if varies:
        deviation = (x.var(0, correction=0) + 1e-8).sqrt().mean()
        y = torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], 1)
    for number in (0, 2):
        y = _convolved(y, w[f"{name}.main_mapping.{number}.weight"])
        bias = w[f"{name}.main_mapping.{number + 1}.bias"]
        y = F.leaky_relu(y + _as_map(bias), _SLOPE)
    return (y + _beside(w, x, name)) / _ROOT2


def _attention(w: Weights, x: Tensor, name: str) -> Tensor:
    query = _convolved(x, w[f"{name}.theta.weight"]).flatten(2)
    key = F.max_pool2d(_convolved(x, w[f"{name}.phi.weight"]), 2).flatten(2)
    value = F.max_pool2d(_convolved(x, w[f"{name}.g.weight"]), 2).flatten(2)
    seen = value @ torch.softmax(query.transpose(1, 2) @ key, -1).transpose(1, 2)
    seen = _convolved(seen.unflatten(2, x.shape[2:]), w[f"{name}.o.weight"])
    return (w[f"{name}.gamma"] * seen + _beside(w, x, name)) / _ROOT2


def _beside(w: Weights, x: Tensor, name: str) -> Tensor:
    """A block that has as many channels behind it as before adds its input as it is."""
    weight = w.get(f"{name}.residual_mapping.weight")
    return x if weight is None else _convolved(x, weight)


def _halved(w: Weights, x: Tensor, name: str) -> Tensor:
    weight, bias = w[f"{name}.0.weight"], w[f"{name}.0.bias"]
    scale = _ROOT2 / weight[0].numel() ** 0.5
    x = F.conv2d(x, weight * scale, bias * (2 / len(bias)) ** 0.5, stride=2)
    return _filtered(x, w[f"{name}.1.kernel"], 1, (2, 2))


def _convolved(x: Tensor, weight: Tensor) -> Tensor:
    scale = _ROOT2 / weight[0].numel() ** 0.5
    return F.conv2d(x, weight * scale, padding=weight.shape[-1] // 2)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight * (_ROOT2 / weight.shape[1] ** 0.5))


def _filtered(x: Tensor, kernel: Tensor, up: int, padding: tuple[int, int]) -> Tensor:
    """Zeros between pixels and around them, then a filter, each channel as an image of its own."""
    batch, channels, height, width = x.shape
    x = x.reshape(-1, 1, height, 1, width, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).reshape(-1, 1, height * up, width * up)
    x = F.conv2d(F.pad(x, padding * 2), kernel.flip(0, 1)[None, None])
    return x.view(batch, channels, *x.shape[2:])


def _as_map(bias: Tensor) -> Tensor:
    return bias.view(1, -1, 1, 1)
