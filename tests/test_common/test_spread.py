import pytest
import torch

from common.metrics.manifold import spread
from common.spread import evenly


@pytest.mark.parametrize("count", [1, 4, 6, 7, 9, 10, 11, 50])
def test_rows_come_from_all_over_and_no_gap_is_wider_than_it_must_be(count: int) -> None:
    rows = evenly(10, count)
    assert len(rows) == min(count, 10) and rows[0] == 0
    gaps = [after - before for before, after in zip(rows, [*rows[1:], 10], strict=True)]
    assert max(gaps) - min(gaps) <= 1 and min(gaps) >= 1
    assert spread(torch.arange(10), count).tolist() == rows
