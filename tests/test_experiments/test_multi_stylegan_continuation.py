"""Styles are found again, and sequences go on."""

import pytest
import torch

from experiments.multi_stylegan.continuation import between, continued, invert
from experiments.multi_stylegan.networks import Generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(16, 2, 3, 8, 8, (16, 16, 16), 2).eval()


def drawn(generator: Generator, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(count, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        styles = generator.mapping(z)
        return styles, generator.synthesize(styles)


@pytest.mark.usefixtures("one_thread")
def test_frames_of_the_generator_are_found_again(generator: Generator) -> None:
    _, frames = drawn(generator)
    _, before = invert(generator, frames, steps=0)
    styles, after = invert(generator, frames, steps=300)
    assert (after < 0.05 * before).all()
    with torch.no_grad():
        torch.testing.assert_close(
            (generator.synthesize(styles) - frames).square().mean((1, 2, 3, 4)), after
        )


@pytest.mark.usefixtures("one_thread")
def test_one_sequence_does_not_lead_another_astray(generator: Generator) -> None:
    _, frames = drawn(generator)
    together, _ = invert(generator, frames, steps=5)
    alone, _ = invert(generator, frames[1:], steps=5)
    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("one_thread")
def test_a_sequence_goes_on_and_what_was_known_stays(generator: Generator) -> None:
    _, frames = drawn(generator)
    frames = frames.clamp(-1, 1)
    made = continued(generator, frames, 10, steps=3)
    assert made.shape == (2, 2, 13, 16, 16)
    assert torch.equal(made[:, :, :3], frames)
    assert made.isfinite().all() and made.abs().max() <= 1
    known = [p.clone() for p in generator.parameters()]
    assert all(map(torch.equal, known, generator.parameters()))
    assert all(p.grad is None for p in generator.parameters())


def test_what_cannot_be_continued_is_refused(generator: Generator) -> None:
    _, frames = drawn(generator)
    with pytest.raises(ValueError, match="more than the 3"):
        invert(generator, torch.cat([frames, frames], 2))
    with pytest.raises(ValueError, match="1 frames are known"):
        continued(generator, frames[:, :, :1], 1)


def test_a_walk_passes_all_its_anchors_and_ends_before_the_first() -> None:
    anchors = torch.randn(3, 4, 5)
    path = between(anchors, 4)
    assert path.shape == (12, 4, 5)
    torch.testing.assert_close(path[::4], anchors)
    torch.testing.assert_close(path[2], (anchors[0] + anchors[1]) / 2)
    torch.testing.assert_close(path[10], (anchors[2] + anchors[0]) / 2)
