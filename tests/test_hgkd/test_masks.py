import pytest
import torch

from mmplugins.hgkd import ActiveMask, draw_cells


@pytest.mark.parametrize('ratio', [0.0, 0.25, 0.4, 0.6, 0.75])
@pytest.mark.parametrize('grid', [(7, 7), (3, 5)])
def test_keeps_the_same_number_of_cells_in_every_image(grid, ratio):
    cells = draw_cells(4, grid, ratio)
    assert cells.shape == (4, 1, *grid)
    assert cells.flatten(1).sum(1).tolist() == [round(grid[0] * grid[1] * (1 - ratio))] * 4


def test_keeps_one_cell_at_least():
    assert draw_cells(2, (1, 1), 0.9).all()


def test_all_cells_are_equally_likely():
    share = draw_cells(4000, (3, 4), 0.5).float().mean(0)
    assert (share - 0.5).abs().max() < 0.04  # five standard deviations


def test_sites_and_raster_are_those_of_nearest_upsampling():
    cells = draw_cells(2, (3, 5), 0.6)
    mask = ActiveMask(cells)
    for edge in (1, 2, 4):
        size = (3 * edge, 5 * edge)
        expected = torch.nn.functional.interpolate(cells.float(), size=size, mode='nearest').bool()
        assert torch.equal(mask.sites(size), expected)
        assert torch.equal(mask.raster(size).sort()[0], expected.flatten().nonzero().squeeze(1))


def test_take_and_put_cells_undo_each_other_and_follow_the_raster():
    mask, size = ActiveMask(draw_cells(2, (3, 5), 0.6)), (6, 10)
    x = torch.randn(2, 4, *size)
    rows = mask.take_cells(x)
    assert torch.equal(rows, x.permute(0, 2, 3, 1).flatten(0, 2)[mask.raster(size)])
    assert torch.equal(mask.put_cells(rows, size), x * mask.sites(size))


@pytest.mark.parametrize('kernel, stride, dilation', [(3, 1, 1), (3, 2, 1), (7, 2, 1), (3, 1, 2)])
@pytest.mark.parametrize('edge', [2, 4])
def test_windows_name_the_rows_that_a_convolution_reads(kernel, stride, dilation, edge):
    cells, padding = draw_cells(2, (2, 3), 0.5), dilation * (kernel - 1) // 2
    mask, size = ActiveMask(cells), (2 * edge, 3 * edge)
    row_of = {site: row for row, site in enumerate(mask.raster(size).tolist())}
    found = mask.windows(size, 1, kernel, stride, padding, dilation)
    small = (size[0] // stride, size[1] // stride)
    for window, site in zip(found, mask.raster(small).tolist(), strict=True):
        image, y, x = site // (small[0] * small[1]), site // small[1] % small[0], site % small[1]
        for i in range(kernel):
            for j in range(kernel):
                a, b = y * stride - padding + i * dilation, x * stride - padding + j * dilation
                inside = 0 <= a < size[0] and 0 <= b < size[1]
                expected = row_of.get((image * size[0] + a) * size[1] + b, len(row_of)) if inside else len(row_of)
                assert window[i, j] == expected


@pytest.mark.parametrize('size', [(7, 10), (6, 6), (12, 10), (1, 1)])
def test_a_level_of_another_shape_is_an_error(size):
    with pytest.raises(ValueError, match='does not fit a mask of 3 x 5 cells'):
        ActiveMask(torch.ones(1, 1, 3, 5, dtype=torch.bool)).sites(size)


def test_wrong_type_and_shape_are_errors():
    with pytest.raises(TypeError, match='must be bool'):
        ActiveMask(torch.ones(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r'must be \(B, 1, h, w\)'):
        ActiveMask(torch.ones(1, 2, 2, dtype=torch.bool))
