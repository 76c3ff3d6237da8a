"""DSBlock: the formula, what each part can see, costs, sizes, bad options."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.utils import fuse_conv_bn
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmplugins.dsnet import DSBlock
from mmplugins.dsnet.block import FeedForward

PARAMETERS = [  # channels, heads, expansion, with alignment, without
    (64, 1, 4, 54_496, 45_920),
    (128, 2, 4, 213_440, 179_904),
    (320, 5, 4, 1_316_960, 1_110_240),
    (512, 8, 4, 3_360_512, 2_833_152),
    (256, 8, 4, 844_672, 712_064),
    (256, 8, 1, 450_688, 318_080),
]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(('channels', 'heads', 'expansion', 'aligned', 'plain'), PARAMETERS)
def test_parameters(channels, heads, expansion, aligned, plain):
    assert count(DSBlock(channels, heads, 2, mlp_ratio=expansion)) == aligned
    assert count(DSBlock(channels, heads, 2, mlp_ratio=expansion, inter_scale_align=False)) == plain


@pytest.mark.parametrize('align', [True, False], ids=['aligned', 'plain'])
@pytest.mark.parametrize(('channels', 'heads', 'ratio', 'side'), [(64, 1, 8, 56), (320, 5, 2, 14), (512, 8, 2, 7)])
def test_multiplications_are_those_of_the_formula(channels, heads, ratio, side, align):
    with torch.device('meta'), FlopCounterMode(display=False) as counter:
        DSBlock(channels, heads, ratio, inter_scale_align=align).eval()(torch.empty(1, channels, side, side))
    c, tokens, n = channels // 2, side**2, (side // ratio) ** 2
    expected = channels**2 * tokens * 10 + 9 * (channels + c) * tokens + 3 * c**2 * n + 2 * n**2 * c
    if align:
        expected += 4 * c**2 * (tokens + n) + 4 * tokens * n * c
    expected -= 2 * channels * c * (tokens - n)  # both projections of the global stream, where it is small
    assert counter.get_total_flops() == 2 * expected


def test_cost_is_linear_for_a_fixed_number_of_tokens():
    """Not for a fixed ratio, with which the tokens grow, too."""

    def flops(side: int, ratio: int) -> int:
        with torch.device('meta'), FlopCounterMode(display=False) as counter:
            DSBlock(64, 1, ratio).eval()(torch.empty(1, 64, side, side))
        return counter.get_total_flops()

    fixed = [flops(side, side // 8) for side in (32, 64, 128)]
    assert fixed[2] - fixed[1] == 4 * (fixed[1] - fixed[0])
    growing = [flops(side, 4) for side in (32, 64, 128)]
    assert growing[2] - growing[1] > 8 * (growing[1] - growing[0])


def heads_of(tokens, heads):
    return [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in tokens.chunk(3, dim=-1)]


@pytest.mark.parametrize('align', [True, False], ids=['aligned', 'plain'])
@pytest.mark.parametrize('split_ratio', [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize('ratio', [1, 3])
def test_formula(split_ratio, ratio, align, attention, shake):
    """Also: projections of all channels, as in older checkpoints, become those of the streams."""
    block = shake(DSBlock(16, 2, ratio, split_ratio=split_ratio, inter_scale_align=align))
    proj_in, proj_out = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
    state = {key: value for key, value in block.state_dict().items() if '_in.' not in key and '_out.' not in key}
    state.update(nn.ModuleDict(dict(proj_in=proj_in, proj_out=proj_out)).state_dict())
    block.load_state_dict(state, strict=True)
    x = torch.randn(2, 16, 7, 9)
    c = int(16 * split_ratio)
    y = x + block.pos_conv(x)
    z = proj_in(block.norm1(y))
    g, local = z[:, :c], z[:, c:]
    if c < 16:
        local = local + block.local.dwconv(block.local.norm(local))
    if c:
        g = F.interpolate(g, size=(7 // ratio, 9 // ratio), mode='bilinear').flatten(2).transpose(1, 2)
        g = g + attention(*heads_of(block.glob.qkv(block.glob.norm(g)), 2))
    if 0 < c < 16 and align:
        part = block.align
        lq, lk, lv = heads_of(part.local_qkv(part.local_norm(local)).flatten(2).transpose(1, 2), 2)
        gq, gk, gv = heads_of(part.global_qkv(part.global_norm(g)), 2)
        to_local = part.local_proj(attention(lq, gk, gv)).transpose(1, 2).reshape(local.shape)
        g = g + part.global_proj(attention(gq, lk, lv))
        local = local + to_local
    if c:
        g = F.interpolate(g.transpose(1, 2).reshape(2, c, 7 // ratio, 9 // ratio), size=(7, 9), mode='bilinear')
    y = y + proj_out(torch.cat([local, g], dim=1))
    y = y + block.ffn.fc2(F.gelu(block.ffn.fc1(block.norm2(y))))
    torch.testing.assert_close(block(x), y, atol=1e-5, rtol=1e-5)


def test_projections_start_as_one_convolution_of_all_channels():
    """Torch's bound is one over the root of the inputs, of which each stream's part has only some."""
    block = DSBlock(64, 2, 2, split_ratio=0.25)
    for layers in ((block.local_in, block.global_in), (block.local_out, block.global_out)):
        parameters = [parameter.flatten() for layer in layers for parameter in layer.parameters()]
        assert sum(map(len, parameters)) == 64 * 64 + 64
        assert torch.cat(parameters).std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.03)
        assert all(p.abs().max() <= 1 / 8 for p in parameters)


def test_odd_channels_give_the_global_stream_one_more():
    block = DSBlock(15, 4, 2)
    assert (block.global_channels, block.local_channels) == (8, 7)
    assert block(torch.randn(1, 15, 6, 6)).shape == (1, 15, 6, 6)


def test_without_what_the_alignment_adds_the_block_is_the_plain_one(shake):
    block, plain = shake(DSBlock(32, 2, 4)), DSBlock(32, 2, 4, inter_scale_align=False).eval()
    missing, unexpected = plain.load_state_dict(block.state_dict(), strict=False)
    assert not missing and all(key.startswith('align.') for key in unexpected)
    x = torch.randn(2, 32, 12, 8)
    assert not torch.equal(block(x), plain(x))
    for projection in (block.align.local_proj, block.align.global_proj):
        nn.init.zeros_(projection.weight)
        nn.init.zeros_(projection.bias)
    assert torch.equal(block(x), plain(x))


def reached(block: DSBlock, row: int, column: int) -> torch.Tensor:
    """Where the output ``(24, 24)`` depends on one pixel."""
    x = torch.randn(1, 16, 24, 24, dtype=torch.float64)
    other = x.clone()
    other[..., row, column] += 1
    return (block.double().eval()(x) - block(other)).abs().amax((0, 1)) > 1e-12


@pytest.mark.parametrize(
    ('options', 'everywhere'),
    [
        (dict(split_ratio=0.0), False),
        (dict(split_ratio=1.0), True),
        (dict(split_ratio=0.5, inter_scale_align=False), True),
        (dict(split_ratio=0.5), True),
    ],
    ids=['local', 'global', 'dual', 'aligned'],
)
def test_global_reach_of_one_block(options, everywhere):
    # Three quarters of the way into a cell of 4 x 4: the resize reads only the two rows in the middle of each.
    found = reached(DSBlock(16, 2, 4, **options), 18, 18)
    assert found[18, 18]
    if everywhere:
        assert found.all()
    else:
        rows, columns = found.nonzero(as_tuple=True)
        # Two 3x3 convolutions in a row.
        assert (rows - 18).abs().max() == 2 and (columns - 18).abs().max() == 2


def test_only_the_alignment_sees_between_the_points_of_the_resize():
    corner = (16, 16)  # first of its cell
    plain = reached(DSBlock(16, 2, 8, inter_scale_align=False), *corner)
    assert not plain[:8, :8].any()
    assert reached(DSBlock(16, 2, 8), *corner).all()


def test_without_global_channels_there_is_no_attention():
    block = DSBlock(16, 2, 4, split_ratio=0.0)
    assert not [name for name, _ in block.named_parameters() if 'qkv' in name or 'glob' in name or 'align' in name]


@pytest.mark.parametrize('options', [dict(), dict(inter_scale_align=False), dict(split_ratio=0.25)])
def test_all_parameters_get_gradients(options):
    block = DSBlock(16, 2, 2, **options)
    block(torch.randn(2, 16, 6, 8)).square().sum().backward()
    dead = [n for n, p in block.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


def test_images_do_not_depend_on_each_other():
    block = DSBlock(16, 2, 2).eval()
    x = torch.randn(3, 16, 8, 6)
    torch.testing.assert_close(block(x), torch.cat([block(image[None]) for image in x]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (3, 2), (7, 7), (8, 15)])
def test_small_maps(size):
    block = DSBlock(16, 2, 8).eval()
    seen = []
    block.glob.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    x = torch.randn(2, 16, *size)
    assert block(x).shape == x.shape
    assert seen == [max(size[0] // 8, 1) * max(size[1] // 8, 1)]


def test_checkpointing_changes_nothing():
    block, saving = DSBlock(16, 2, 2), DSBlock(16, 2, 2, with_cp=True)
    saving.load_state_dict(block.state_dict())
    x = torch.randn(2, 16, 6, 6, requires_grad=True)
    gradients = [torch.autograd.grad(b(x).square().sum(), [x, *b.parameters()]) for b in (block, saving)]
    torch.testing.assert_close(*gradients)


def test_feed_forward_keeps_one_of_the_two_wide_maps(monkeypatch):
    """The map behind the GELU is gone after the forward pass; backward makes it again, and nothing else."""
    made, original = [], F.gelu

    def gelu(x):
        y = original(x)
        made.append(weakref.ref(y))
        return y

    monkeypatch.setattr(F, 'gelu', gelu)
    ffn = FeedForward(16, 64)
    x = torch.randn(2, 16, 6, 6, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = ffn(x)
    assert [ref() for ref in made] == [None]
    with FlopCounterMode(display=False) as backward:
        found = torch.autograd.grad(y.square().sum(), [x, *ffn.parameters()])
    assert len(made) == 2
    assert backward.get_total_flops() == 2 * forward.get_total_flops()
    y = ffn.fc2(original(ffn.fc1(x)))
    torch.testing.assert_close(found, torch.autograd.grad(y.square().sum(), [x, *ffn.parameters()]))


def test_feed_forward_recomputes_the_dropout_of_its_forward_pass():
    """Of what stands in the place of the convolution, as LoRA: gradients are those without recomputation."""
    ffn = FeedForward(8, 64)
    ffn.fc2 = nn.Sequential(nn.Dropout(0.5), ffn.fc2)
    x = torch.randn(2, 8, 3, 3, requires_grad=True)
    gradients = []
    for forward in (ffn, lambda x: ffn.fc2(F.gelu(ffn.fc1(x)))):
        torch.manual_seed(0)
        y = forward(x).square().sum()
        torch.manual_seed(1)  # others draw between the passes
        gradients.append(torch.autograd.grad(y, [x, *ffn.parameters()]))
    torch.testing.assert_close(*gradients)


def test_hooks_may_keep_what_modules_return():
    """No output of a module is changed in place: Grad-CAM and the like keep them, and backward hooks forbid it."""
    block = DSBlock(16, 2, 2)
    kept = []
    for module in (m for m in block.modules() if m is not block.align):  # which returns two
        module.register_full_backward_hook(lambda *_: None)
        module.register_forward_hook(lambda module, inputs, output: kept.append((output, output._version)))
    block(torch.randn(2, 16, 6, 6, requires_grad=True)).sum().backward()
    assert len(kept) > 10
    assert all(output._version == version for output, version in kept)


@pytest.mark.parametrize('split_ratio', [0.0, 0.5, 1.0])
def test_both_layouts_of_memory_give_the_same(split_ratio):
    block = DSBlock(16, 2, 2, split_ratio=split_ratio)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 16, 6, 10, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
        x.requires_grad_()
        y = block(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *block.parameters()])])
    assert results[1][0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*results, atol=1e-3, rtol=1e-4)


def test_drop_path_skips_branches_of_whole_images():
    block = DSBlock(16, 2, 2, drop_path_rate=0.5)
    x = torch.randn(64, 16, 4, 4)
    alone = x + block.pos_conv(x)
    skipped = (block(x) == alone).flatten(1).all(1)
    assert 4 <= skipped.sum() <= 32  # a quarter of them skips both branches
    assert not (block.eval()(x) == alone).flatten(1).all(1).any()


def test_fusion_of_norms_by_the_host_is_right(shake):
    """mmcv folds a norm into the convolution registered before it, whether or not one follows the other."""
    block = shake(DSBlock(16, 2, 2))
    x = torch.randn(1, 16, 6, 6)
    expected = block(x)
    torch.testing.assert_close(fuse_conv_bn(block)(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(('name', 'kind'), [('GN', nn.GroupNorm), ('SyncBN', nn.SyncBatchNorm)])
def test_norms_of_maps(name, kind):
    norm_cfg = dict(type='GN', num_groups=4) if name == 'GN' else dict(type=name)
    norms = [m for m in DSBlock(16, 2, 2, norm_cfg=norm_cfg).modules() if 'Norm' in type(m).__name__]
    assert [isinstance(norm, kind) for norm in norms].count(True) == 4
    assert [isinstance(norm, nn.LayerNorm) for norm in norms].count(True) == len(norms) - 4 == 2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(split_ratio=1.5), r'split_ratio=1.5 is not in 0 … 1'),
        (dict(split_ratio=-0.1), r'split_ratio=-0.1'),
        (dict(global_ratio=0), r'global_ratio=0 is not a whole number'),
        (dict(global_ratio=1.5), r'global_ratio=1.5'),
        (dict(num_heads=0), 'num_heads=0 is not a whole number from 1 on'),
        (dict(num_heads=-2), 'num_heads=-2 is not'),
        (dict(num_heads=3), r'num_heads=3 does not divide the 8 channels of the global stream .channels=16, split'),
        (dict(split_ratio=0.3, num_heads=4), r'num_heads=4 does not divide the 5 channels'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DSBlock(**{**dict(channels=16, num_heads=2, global_ratio=2), **options})
