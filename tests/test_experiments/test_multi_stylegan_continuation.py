"""Styles are found again, and sequences go on."""

import pytest
import torch

from experiments.multi_stylegan.continuation import between, continued, estimated_shrinkage, invert
from experiments.multi_stylegan.networks import Generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    network = Generator(16, 2, 3, 8, 8, (16, 16, 16), 2).eval()
    # Frames begin faint, which leaves a search less to find than what holds it; recordings are not.
    with torch.no_grad():
        for frames in (layer for level in network.levels for layer in level.frames):
            frames.weight.mul_(4)
    return network


def drawn(generator: Generator, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(count, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        styles = generator.mapping(z)
        return styles, generator.synthesize(styles)


@pytest.mark.usefixtures("one_thread")
def test_frames_of_the_generator_are_found_again(generator: Generator) -> None:
    _, frames = drawn(generator)
    _, before = invert(generator, frames, steps=0)
    styles, after = invert(generator, frames, steps=150)
    assert (after < 0.02 * before).all()
    with torch.no_grad():
        torch.testing.assert_close(
            (generator.synthesize(styles) - frames).square().mean((1, 2, 3, 4)), after
        )


@pytest.mark.usefixtures("one_thread")
def test_a_search_begins_with_the_styles_that_are_given(generator: Generator) -> None:
    styles, frames = drawn(generator)
    found, missed = invert(generator, frames, 0, styles)
    torch.testing.assert_close(found, styles, rtol=1e-3, atol=1e-3)
    assert (missed < 1e-4 * frames.square().mean()).all()


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
    made = continued(generator, frames, 10, 3, torch.tensor([0.5, 1.0]))
    assert made.shape == (2, 2, 13, 16, 16)
    assert torch.equal(made[:, :, :3], frames)
    assert made.isfinite().all() and made.abs().max() <= 1
    known = [p.clone() for p in generator.parameters()]
    assert all(map(torch.equal, known, generator.parameters()))
    assert all(p.grad is None for p in generator.parameters())


@pytest.mark.usefixtures("one_thread")
def test_changes_are_trusted_as_far_as_they_come_true(generator: Generator) -> None:
    _, frames = drawn(generator, 8)
    found = estimated_shrinkage(generator, frames, steps=60)
    assert found.shape == (2,) and (found > 0.8).all()
    # In one domain only a third of the change happens, and in the other one nothing.
    slower = frames.clone()
    slower[:, 0, 2] = frames[:, 0, 1] + (frames[:, 0, 2] - frames[:, 0, 1]) / 3
    slower[:, 1, 2] = frames[:, 1, 1]
    again = estimated_shrinkage(generator, slower, steps=60)
    assert again[0].item() == pytest.approx(1 / 3, abs=0.05) and again[1] == 0
    still = continued(generator, frames[:1, :, :2].clamp(-1, 1), 2, 1, torch.zeros(2))
    assert torch.equal(still[:, :, 2:], still[:, :, 1:2].expand(-1, -1, 2, -1, -1))
    broken = frames.clone()
    broken[0, 0] = torch.nan
    assert estimated_shrinkage(generator, broken, steps=1)[0] == 0


@pytest.mark.usefixtures("one_thread")
def test_what_cannot_be_drawn_stays(generator: Generator) -> None:
    _, frames = drawn(generator)
    frames = frames.clamp(-0.9, 0.9)
    frames[:, :, :, ::5, ::3] += 0.1
    made = continued(generator, frames[:, :, :2], 1, 20, torch.ones(2))
    styles, _ = invert(generator, frames[:, :, :2], 20)
    with torch.no_grad():
        before, after = generator.synthesize(styles)[:, :, 1:].unbind(2)
    torch.testing.assert_close(made[:, :, 2], (frames[:, :, 1] + after - before).clamp(-1, 1))


def test_what_cannot_be_continued_is_refused(generator: Generator) -> None:
    _, frames = drawn(generator)
    with pytest.raises(ValueError, match="more than the 3"):
        invert(generator, torch.cat([frames, frames], 2))
    with pytest.raises(ValueError, match="1 frames are known"):
        continued(generator, frames[:, :, :1], 1, 1, torch.ones(2))


def test_a_walk_passes_all_its_anchors_and_ends_before_the_first() -> None:
    anchors = torch.randn(3, 4, 5)
    path = between(anchors, 4)
    assert path.shape == (12, 4, 5)
    torch.testing.assert_close(path[::4], anchors)
    torch.testing.assert_close(path[2], (anchors[0] + anchors[1]) / 2)
    torch.testing.assert_close(path[10], (anchors[2] + anchors[0]) / 2)
