"""Networks of every kind become ONNX that does the same, in standard operators only."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import kernels
from common.errors import Exit, UserError
from common.onnx_graph import run_graph, write_graph
from common.sampling import Sampler, seeded_noise

ROWS = 12
BATCHES = (1, 3, 8)


class StyleLayer(nn.Module):
    """What a style-based generator is made of, with compiled operators."""

    def __init__(self, up: int = 1, taps: int = 3, demodulate: bool = True) -> None:
        super().__init__()
        self.up, self.padding, self.demodulate = up, taps // 2, demodulate
        self.register_buffer("filter", kernels.setup_filter([1, 3, 3, 1]))
        self.register_buffer("noise", torch.randn(1, 1, 8 * up, 8 * up))
        self.constant = nn.Parameter(torch.randn(4, 8, 8))
        self.weight = nn.Parameter(torch.randn(6, 4, taps, taps))
        self.bias = nn.Parameter(torch.randn(6))
        self.strength = nn.Parameter(torch.tensor(0.3))
        self.affine = nn.Linear(5, 4)

    def forward(self, z: Tensor) -> Tensor:
        x = self.constant.expand(len(z), -1, -1, -1)
        x = kernels.modulated_layer(
            x, self.weight, self.affine(z), self.noise, up=self.up, padding=self.padding,
            resample_filter=self.filter, demodulate=self.demodulate, strength=self.strength,
            b=self.bias, clamp=256.0,
        )  # fmt: skip
        x = kernels.noise_bias_act(x, self.noise, 0.1, self.bias, act="swish")
        x = kernels.bias_act(kernels.upsample2d(x, self.filter), self.bias, act="lrelu")
        x = kernels.downsample2d(kernels.filter2d(x, self.filter), self.filter)
        x = kernels.upfirdn2d_bias_act(x, self.filter, up=2, padding=[2, 1], b=self.bias)
        x = kernels.modulated_conv2d(x, self.weight.transpose(0, 1), x.mean((2, 3)))
        return torch.tanh(kernels.upfirdn2d(x, self.filter, down=2))


class Frames(nn.Module):
    """Sequences of two domains [B, 2, frames, H, W] of a source image and z."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv3d(3, 2, 3, padding=1)

    def forward(self, source: Tensor, z: Tensor) -> Tensor:
        planes = torch.stack([source.expand(-1, 2, -1, -1)] * 3, dim=2)
        return torch.sigmoid(self.body(torch.cat([planes, z], dim=1)))


class Denoiser(nn.Module):
    """One step of a diffusion model: six channels, time, condition."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 6)
        self.body = nn.Conv2d(12, 6, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, source: Tensor, label: Tensor) -> Tensor:
        shift = torch.cos(time)[:, None] + self.embedding(label)
        return x - self.body(torch.cat([x + shift[..., None, None], source], dim=1))


class Owner(nn.Module):
    """A module as experiments have it: more networks than one, and a method that samples."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.discriminator = nn.Linear(1000, 500)

    def decode(self, *inputs: Tensor) -> Tensor:
        """Half the network's output."""
        return self.network(*inputs) / 2


def noise(*shape: int) -> Tensor:
    return seeded_noise(torch.arange(ROWS), *shape)


def style(**how: object) -> Callable[[], tuple[nn.Module, dict[str, Tensor], str]]:
    return lambda: (StyleLayer(**how), {"z": noise(5)}, "image")


def frames() -> tuple[nn.Module, dict[str, Tensor], str]:
    return Frames(), {"source": noise(1, 8, 8), "z": noise(1, 3, 8, 8)}, "image"


def denoiser() -> tuple[nn.Module, dict[str, Tensor], str]:
    step = {"x": noise(6, 8, 8), "time": noise()}
    condition = {"source": noise(6, 8, 8) + 1, "label": torch.arange(ROWS) % 4}
    return Denoiser(), step | condition, "denoised"


CASES = {
    "style": style(),
    "style, upsampled": style(up=2),
    "style, 1 x 1": style(up=2, taps=1),
    "style, not demodulated": style(demodulate=False),
    "sequences": frames,
    "denoiser": denoiser,
}


@pytest.mark.parametrize("case", CASES)
def test_a_written_network_does_the_same_for_any_number_of_rows(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, inputs, output = CASES[case]()
    owner = Owner(network).eval()
    sampler = Sampler(owner.decode, inputs, output)
    path = tmp_path / "sampler.onnx"
    write_graph(path, owner, sampler, {"about": json.dumps(case)})
    with torch.no_grad():
        expected = sampler()
    found = run_graph(path, inputs, BATCHES)
    assert expected.std() > 0.01
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert (found - expected).abs().max() <= 1e-4
    model = onnx.load(path)
    assert [each.name for each in model.graph.input] == list(inputs)
    assert [each.name for each in model.graph.output] == [output]
    for each in (*model.graph.input, *model.graph.output):
        first, *rest = each.type.tensor_type.shape.dim
        assert first.dim_param == "batch" and all(dim.dim_value for dim in rest)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not model.functions
    assert {p.key: p.value for p in model.metadata_props} == {"about": json.dumps(case)}
    # The discriminator is no part of it.
    assert path.stat().st_size < 4 * owner.discriminator.weight.numel() / 2


def test_the_mode_of_the_compiled_operators_is_what_it_was(tmp_path: Path) -> None:
    network, inputs, output = style()()
    with kernels.using("auto"):
        before = kernels.registry.status()
        write_graph(tmp_path / "a.onnx", network.eval(), Sampler(network, inputs, output), {})
        assert kernels.registry.status() == before


class CountsRows(nn.Module):
    """Another network for another number of rows: what no graph can be."""

    def forward(self, z: Tensor) -> Tensor:
        for _ in range(len(z)):
            z = z.cumsum(0)
        return z


class LooksAtValues(nn.Module):
    """Another network for other values."""

    def forward(self, z: Tensor) -> Tensor:
        return z if z.sum().item() > 0 else -z


class HasNoTranslation(nn.Module):
    """An operation that ONNX has no operator for."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(z[:, :, None] * z[:, None])


@pytest.mark.parametrize(
    ("network", "word"),
    [
        (CountsRows, "specialized it to be a constant"),
        (LooksAtValues, "data-dependent expression"),
        (HasNoTranslation, "linalg_matrix_exp"),
    ],
)
def test_what_cannot_be_translated_is_refused_in_one_sentence(
    network: type[nn.Module], word: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    module = network()
    with pytest.raises(UserError, match=f"{network.__name__}.sampler: cannot be") as refused:
        write_graph(tmp_path / "a.onnx", module, Sampler(module, {"z": noise(5)}), {})
    assert refused.value.code == Exit.BUG
    assert "\n" not in str(refused.value) and word in refused.value.problem
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_does_not_run_is_refused_in_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    network, inputs, output = CASES["sequences"]()
    path = tmp_path / "sampler.onnx"
    write_graph(path, network.eval(), Sampler(network, inputs, output), {})
    wrong = inputs | {"source": torch.zeros(ROWS, 1, 8, 9)}
    for content, given in ((path.read_bytes(), wrong), (b"no graph", inputs)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"sampler\.onnx: does not run") as refused:
            run_graph(path, given, BATCHES)
        assert refused.value.code == Exit.BUG
        assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")
