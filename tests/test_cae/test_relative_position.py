"""Table and index of the relative position bias."""

import torch

from mmplugins.cae.relative_position import relative_position_index, resize_bias_table


def test_index_of_the_bias_table_is_brute_force():
    rows, columns = 2, 3
    index = relative_position_index((rows, columns))
    patches = (2 * rows - 1) * (2 * columns - 1)
    for i in range(rows * columns):
        for j in range(rows * columns):
            dy, dx = i // columns - j // columns, i % columns - j % columns
            assert index[1 + i, 1 + j] == (dy + rows - 1) * (2 * columns - 1) + dx + columns - 1
    assert index[0, 1:].unique().tolist() == [patches]
    assert index[1:, 0].unique().tolist() == [patches + 1]
    assert index[0, 0] == patches + 2


def test_bias_table_keeps_near_and_far_when_resized():
    source, target = (3, 3), (5, 9)
    table = torch.zeros(28, 2)
    # The bias is the sign of the distance in x, times two; bicubic interpolation keeps the ends and the middle.
    table[:25, 0] = torch.arange(-2.0, 3).repeat(5)
    table[25:] = torch.tensor([[7.0, 8], [9, 10], [11, 12]])
    resized = resize_bias_table(table, source, target)
    grid = resized[:-3, 0].reshape(9, 17)
    assert torch.equal(resized[-3:], table[-3:])
    torch.testing.assert_close(grid[:, [0, 8, 16]], torch.tensor([-2.0, 0, 2]).expand(9, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(resize_bias_table(table, source, source), table)
