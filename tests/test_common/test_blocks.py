import pytest
import torch
from torch.nn import functional as F

from common.networks.blocks import FiLM, ResidualBlock, group_norm


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def test_film_starts_as_the_identity() -> None:
    x, condition = torch.randn(2, 5, 4, 3), torch.randn(2, 7)
    assert torch.equal(FiLM(7, 5)(x, condition), x)


def test_film_scales_and_shifts_every_channel() -> None:
    film = randomised(FiLM(7, 5))
    x, condition = torch.randn(2, 5, 4, 3), torch.randn(2, 7)
    gain, shift = (condition @ film.affine.weight.T + film.affine.bias).split(5, dim=1)
    expected = torch.einsum("bchw,bc->bchw", x, 1 + gain) + shift.reshape(2, 5, 1, 1)
    torch.testing.assert_close(film(x, condition), expected)


@pytest.mark.parametrize(("before", "after"), [(8, 8), (8, 16), (20, 12)])
def test_a_residual_block_starts_as_its_skip(before: int, after: int) -> None:
    block = ResidualBlock(before, after, 7)
    x, condition = torch.randn(2, before, 6, 4), torch.randn(2, 7)
    assert torch.equal(block(x, condition), block.skip(x))
    assert before != after or torch.equal(block(x, condition), x)


def test_a_residual_block_is_what_its_docstring_says() -> None:
    block = randomised(ResidualBlock(8, 16, 7))
    x, condition = torch.randn(2, 8, 6, 4), torch.randn(2, 7)
    h = F.group_norm(x, 1, block.norm1.weight, block.norm1.bias)
    h = F.conv2d(h * h.sigmoid(), block.conv1.weight, block.conv1.bias, padding=1)
    h = F.group_norm(h, 2, block.norm2.weight, block.norm2.bias)
    h = block.film(h, condition)
    h = F.conv2d(h * h.sigmoid(), block.conv2.weight, block.conv2.bias, padding=1)
    torch.testing.assert_close(block(x, condition), h + F.conv2d(x, block.skip.weight))
    assert not torch.allclose(block(x, condition), block(x, condition + 1))


@pytest.mark.parametrize("num_channels", [1, 2, 4, 8, 12, 20, 24, 36, 100, 256, 512, 1000])
def test_groups_divide_the_channels_and_are_not_small(num_channels: int) -> None:
    groups = group_norm(num_channels).num_groups
    assert num_channels % groups == 0 and groups <= 32
    assert num_channels / groups >= min(8, num_channels)


def test_norms_keep_the_type_and_round_once() -> None:
    norm, x = group_norm(32), (4 + torch.randn(2, 32, 24, 24)).bfloat16()
    expected = F.group_norm(x.double(), norm.num_groups, eps=norm.eps)
    found = norm(x)
    assert found.dtype == torch.bfloat16
    assert norm.bfloat16()(x).dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-6)
