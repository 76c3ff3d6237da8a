"""Speed and memory of the sparse ResNet-50 against mmpretrain's dense-masked SparK encoder on the same work.

Forward and backward of the whole encoder in training mode, same weights, images and masks; the four maps of stages are
compared first. Each arm gives maps ``(B, C, H, W)``, so ``rows`` and ``spconv`` pay for putting their rows back, and
for what they compute from the mask once for all layers. What spconv does in its own kernels is not counted.
"""

from collections.abc import Callable, Iterator

import torch
from mmpretrain.models import SparseResNet
from mmpretrain.models.utils.sparse_modules import SparseHelper
from torch import Tensor, nn

from experiments.frame.benchmark import Benchmark, Bound, Case, Measured, Options, ratio, step_of
from mmplugins.hgkd import HGKDSparseResNet, draw_cells

HOST, ROWS = 'mmpretrain', 'rows'
ARMS = (HOST, 'dense', ROWS, 'spconv')
CELL, IMAGES = 32, 2
SHARES = (0.4, 0.25)  # of visible cells


class Host(nn.Module):
    """mmpretrain's encoder, called as its SparK calls it."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.net = SparseResNet(depth, out_indices=(0, 1, 2, 3), norm_cfg=dict(type='BN'))

    def forward(self, images: Tensor, cells: Tensor) -> tuple[Tensor, ...]:
        """Maps of the stages."""
        SparseHelper._cur_active = cells
        return self.net(images * cells.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3))


def make_net(arm: str, depth: int) -> nn.Module:
    """Encoder with the weights that all arms have."""
    torch.manual_seed(0)
    host = Host(depth)
    if arm == HOST:
        return host
    net = HGKDSparseResNet(depth, arm, norm_cfg=dict(type='BN'))
    net.load_state_dict(host.net.state_dict())
    return net


def make_inputs(size: int, share: float, device: str) -> tuple[Tensor, Tensor]:
    """Images ``(B, 3, size, size)`` and visible cells."""
    torch.manual_seed(0)
    side = size // CELL
    images = torch.randn(IMAGES, 3, size, size, device=device)
    return images, draw_cells(IMAGES, (side, side), 1 - share).to(device)


def forward_of(net: nn.Module, images: Tensor, cells: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Call that forgets the gradients of the one before, which would be added up."""

    def forward() -> tuple[Tensor, ...]:
        net.zero_grad()
        return net(images, cells)

    return forward


def build_step(arm: str, depth: int, size: int, share: float, device: str) -> Callable[[], None]:
    """Forward and backward of an arm, in a process of its own."""
    return step_of(forward_of(make_net(arm, depth).to(device), *make_inputs(size, share, device)))


def check(options: Options) -> None:
    """Compare all maps in float64, where rounding is small; on CUDA spconv has none, and is compared in float32."""
    depth, size = work(options)
    images, cells = make_inputs(size, SHARES[0], options.device)
    maps = {}
    for arm in ARMS:
        dtype = torch.float32 if (arm, options.device) == ('spconv', 'cuda') else torch.float64
        with torch.no_grad():
            maps[arm] = make_net(arm, depth).to(options.device, dtype)(images.to(dtype), cells)
    for arm in ARMS[1:]:
        for found, expected in zip(maps[arm], maps[HOST], strict=True):
            tolerance = 1e-9 if found.dtype == torch.float64 else 1e-3 * float(expected.abs().max())
            torch.testing.assert_close(found.double(), expected, rtol=1e-9, atol=tolerance)


def work(options: Options) -> tuple[int, int]:
    """Depth, and side of an image in pixels."""
    return (18, 96) if options.quick else (50, 224)


def cases(options: Options) -> Iterator[Case]:
    """One for each share of visible cells."""
    depth, size = work(options)
    nets = {arm: make_net(arm, depth).to(options.device) for arm in ARMS}
    for share in SHARES:
        inputs = make_inputs(size, share, options.device)
        arms = {arm: forward_of(net, *inputs) for arm, net in nets.items()}
        peaks = {
            arm: (build_step, (arm, depth, size, share, options.device), (arm, 18, 64, share, options.device))
            for arm in (HOST, ROWS)
        }
        first = share == SHARES[0]  # graphs do not depend on the mask; a process for each peak takes its time
        yield Case(
            name_of(share),
            arms,
            HOST,
            compiled={ROWS: (nets[ROWS], *inputs)} if first and not options.quick else {},
            peaks=peaks if first or not options.quick else {},
        )


def name_of(share: float) -> str:
    """Title of a case."""
    return f'{share:.0%} visible'


def bounds(measured: Measured) -> list[Bound]:
    """Of ``rows``."""
    found = []
    for share, time, kept in ((0.4, 0.65, 0.65), (0.25, 0.55, 0.45)):
        case = name_of(share)
        found += [
            Bound(
                f'{case}: operations over mmpretrain',
                ratio(measured, case, ROWS, HOST, 'flops'),
                share + 0.02,
                'counted: products at visible sites only',
            ),
            Bound(
                f'{case}: bytes kept over mmpretrain',
                ratio(measured, case, ROWS, HOST, 'kept'),
                kept,
                'counted: rows of visible sites only',
            ),
            Bound(
                f'{case}: time over mmpretrain',
                ratio(measured, case, ROWS, HOST, 'seconds'),
                time,
                'the products are the share above; the rest is room for gathering rows',
            ),
        ]
    return found


BENCHMARK = Benchmark(cases=cases, bounds=bounds, check=check, packages=('spconv',))
