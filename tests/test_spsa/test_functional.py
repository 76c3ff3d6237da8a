"""The formulas against explicit N x N matrices in float64, and their invariances."""

import math

import pytest
import torch

from mmplugins.spsa import saliency, spsa_agg, spsa_gate

HEADS = 3
GATES = [pytest.param(dict(act=act, key=key), id=f'{act}-{key}')
         for act in ('one_plus', 'sigmoid', 'raw', 'softmax') for key in ('gap', 'mean_normed')]  # fmt: skip


@pytest.fixture
def x():
    """Two maps that are not square, with a mean that is not zero."""
    return torch.randn(2, 24, 5, 7, dtype=torch.float64) + 0.3


def both(x, **options):
    """The two modes, of which only the gate has options."""
    return torch.stack([spsa_gate(x, HEADS, **options), spsa_agg(x, HEADS)])


def test_gap_key_is_the_weighted_row_sum(x, pearson):
    tokens, p, matrix = pearson(x, HEADS, eps=0)
    weights = (tokens - tokens.mean(-1, keepdim=True)).norm(dim=-1)  # w_j
    z = torch.einsum('bhj,bhjd->bhd', weights, p).norm(dim=-1)
    expected = torch.einsum('bhij,bhj->bhi', matrix, weights) / z[..., None]
    found = saliency(x, HEADS, eps=1e-14).flatten(2)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_mean_normed_key_is_the_row_mean(x, pearson):
    _, _, matrix = pearson(x, HEADS)
    torch.testing.assert_close(saliency(x, HEADS, 'mean_normed').flatten(2), matrix.mean(-1), atol=1e-10, rtol=0)


def test_gap_key_is_the_correlation_with_the_mean_token(x, pearson):
    """The definition, with its eps."""
    tokens, p, _ = pearson(x, HEADS)
    key = tokens.mean(2)
    key = key - key.mean(-1, keepdim=True)
    key = key / (key.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt()
    expected = torch.einsum('bhnd,bhd->bhn', p, key)
    torch.testing.assert_close(saliency(x, HEADS).flatten(2), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ('act', 'formula'),
    [
        ('one_plus', lambda rho: 1 + rho),
        ('sigmoid', lambda rho: 1 / (1 + (-rho).exp())),
        ('raw', lambda rho: rho),
        ('softmax', lambda rho: rho.exp() / rho.exp().mean((-2, -1), keepdim=True)),
    ],
)
def test_gate_is_the_activation_times_the_token(x, act, formula):
    rho = saliency(x, HEADS)[:, :, 0]
    expected = x * formula(rho).repeat_interleave(24 // HEADS, dim=1)
    torch.testing.assert_close(spsa_gate(x, HEADS, act), expected, atol=1e-10, rtol=0)


def test_raw_gate_is_linear_attention_without_mixing(x, pearson):
    """Linear attention takes v_j where the gate takes v_i; the difference is within the bound of the values' spread."""
    tokens, p, matrix = pearson(x, HEADS, eps=0)
    weights = (tokens - tokens.mean(-1, keepdim=True)).norm(dim=-1)
    z = torch.einsum('bhj,bhjd->bhd', weights, p).norm(dim=-1)[..., None, None]
    affinity = matrix * weights.unsqueeze(2) / z
    gate = spsa_gate(x, HEADS, 'raw', eps=1e-14).reshape(2, HEADS, 8, -1).permute(0, 1, 3, 2)
    error = (affinity @ tokens - gate).norm(dim=-1)
    distance = (tokens.unsqueeze(2) - tokens.unsqueeze(3)).norm(dim=-1)
    assert (error <= (affinity.abs() * distance).sum(-1) + 1e-9).all()
    assert error.mean() > 0.1  # it is not small in general
    # Zero where tokens with affinity have equal values.
    same = x[:, :, :1, :1].expand_as(x)
    torch.testing.assert_close(spsa_gate(same, HEADS, 'raw', eps=1e-14), same)


def test_agg_is_attention_with_one_plus_correlation(x, pearson):
    tokens, _, matrix = pearson(x, HEADS)
    kernel = 1 + matrix
    expected = kernel @ tokens / kernel.sum(-1, keepdim=True)
    expected = expected.permute(0, 1, 3, 2).reshape(x.shape)
    torch.testing.assert_close(spsa_agg(x, HEADS, eps=1e-6), expected, atol=2e-5, rtol=0)  # eps of the denominator
    _, _, matrix = pearson(x, HEADS, eps=1e-14)
    kernel = 1 + matrix
    expected = (kernel @ tokens / kernel.sum(-1, keepdim=True)).permute(0, 1, 3, 2).reshape(x.shape)
    torch.testing.assert_close(spsa_agg(x, HEADS, eps=1e-14), expected, atol=1e-10, rtol=0)


def test_agg_kernel_is_close_to_exp(x, pearson):
    """|exp(s) - 1 - s| <= (e - 2) s^2 on [-1, 1]."""
    _, _, matrix = pearson(x, HEADS)
    assert ((matrix.exp() - 1 - matrix).abs() <= (math.e - 2) * matrix.square() + 1e-12).all()


def test_the_mean_key_cancels_in_a_row_softmax(x, pearson):
    """Why the key vector gates: it shifts all logits of a row by the same."""
    _, p, matrix = pearson(x, HEADS)
    shifted = p @ (p - p.mean(2, keepdim=True)).transpose(-1, -2)
    torch.testing.assert_close(shifted.softmax(-1), matrix.softmax(-1), atol=1e-12, rtol=0)


@pytest.mark.parametrize('options', GATES)
def test_spatial_permutation(x, options):
    order = torch.randperm(35)
    moved = x.flatten(2)[..., order].view_as(x)
    expected = both(x, **options).flatten(3)[..., order].view(2, *x.shape)
    torch.testing.assert_close(both(moved, **options), expected, atol=1e-12, rtol=0)


def test_flips_and_rotations(x):
    for change in (lambda t: t.flip(-1), lambda t: t.flip(-2), lambda t: t.rot90(1, (-2, -1))):
        torch.testing.assert_close(both(change(x)), change(both(x)), atol=1e-12, rtol=0)


def test_channel_permutation(x):
    inside = torch.cat([torch.randperm(8) + 8 * head for head in range(HEADS)])
    torch.testing.assert_close(both(x[:, inside]), both(x)[:, :, inside], atol=1e-12, rtol=0)
    across = torch.arange(24).view(HEADS, 8).T.flatten()
    assert (both(x[:, across]) - both(x)[:, :, across]).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-2


@pytest.mark.parametrize('key', ['gap', 'mean_normed'])
def test_saliency_ignores_scale_and_offset(x, key):
    rho = saliency(x, HEADS, key, eps=1e-14)
    for factor in (3.0, 0.01, -2.0):
        torch.testing.assert_close(saliency(factor * x, HEADS, key, eps=1e-14), rho, atol=1e-9, rtol=0)
    offset = torch.randn(2, HEADS, 1, 5, 7, dtype=torch.float64)  # one a token and head
    moved = (x.unflatten(1, (HEADS, 8)) + offset).flatten(1, 2)
    torch.testing.assert_close(saliency(moved, HEADS, key, eps=1e-14), rho, atol=1e-10, rtol=0)


@pytest.mark.parametrize('key', ['gap', 'mean_normed'])
@pytest.mark.parametrize('offset', [0.0, 10.0, 1000.0])
def test_saliency_in_single_precision_with_a_large_offset(x, offset, key):
    """What float32 can tell of the tokens is kept: a common offset of their channels is taken away first."""
    moved = x.float() + offset
    torch.testing.assert_close(
        saliency(moved, HEADS, key).double(), saliency(moved.double(), HEADS, key), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize('options', GATES)
@pytest.mark.parametrize('scale', [1e18, 1e19, 1e30, 1e36])
def test_large_inputs(x, options, scale):
    """Squares of 1e19 are infinite in float32: from there on the correlation is 0, and nothing is NaN."""
    x = (scale * x).float().requires_grad_()
    rho = saliency(x, HEADS, options['key'])
    if scale == 1e18:
        torch.testing.assert_close(rho.double(), saliency(x.double(), HEADS, options['key']), atol=1e-5, rtol=0)
    elif options['key'] == 'gap' and scale > 1e20:
        assert not rho.any()
    y = spsa_gate(x, HEADS, **options)
    assert y.isfinite().all()


def test_half_of_large_values_is_the_largest():
    """Twice 32,752 is no float16: the gate stops at the largest."""
    x = torch.tensor([1.0, -1.0]).repeat(8).view(1, 16, 1, 1).mul(40000).half()
    y = spsa_gate(x, 1)  # of one position: the correlation is 1
    assert y.isfinite().all() and y.abs().min() == torch.finfo(torch.float16).max
    assert spsa_gate(x.float(), 1).abs().max() == pytest.approx(80000)


@pytest.mark.parametrize('options', GATES)
def test_nearest_upsampling_commutes(x, options):
    up = torch.nn.Upsample(scale_factor=3, mode='nearest')
    torch.testing.assert_close(
        spsa_gate(up(x), HEADS, **options), up(spsa_gate(x, HEADS, **options)), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(spsa_agg(up(x), HEADS), up(spsa_agg(x, HEADS)), atol=1e-12, rtol=0)


def test_one_position():
    x = torch.randn(2, 24, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(
        saliency(x, HEADS), torch.ones(2, HEADS, 1, 1, 1, dtype=torch.float64), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(spsa_gate(x, HEADS), 2 * x, atol=1e-4, rtol=0)
    torch.testing.assert_close(spsa_agg(x, HEADS), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize('options', GATES)
def test_ranges(options):
    for scale in (1e-3, 1.0, 1e3):
        x = torch.randn(2, 24, 6, 6) * scale
        x[:, :, 0, 0] = 7.0  # a constant token
        gate = spsa_gate(x, HEADS, **options)
        a = (gate / x).unflatten(1, (HEADS, 8))
        low, high = dict(
            one_plus=(0, 2), sigmoid=(1 / (1 + math.e), 1 / (1 + 1 / math.e)), raw=(-1, 1), softmax=(0, 36)
        )[options['act']]  # fmt: skip
        assert a.min() >= low - 1e-5 and a.max() <= high + 1e-5
        # One number a head and position.
        assert (a - a.mean(2, keepdim=True)).abs().max() < 1e-4


@pytest.mark.parametrize('value', [0.0, 1.0, -3.7, 1e4])
@pytest.mark.parametrize('options', GATES)
def test_constant_maps(value, options):
    x = torch.full((2, 24, 4, 5), value, requires_grad=True)
    rho = saliency(x, HEADS, options['key'])
    assert rho.abs().max() <= 1e-6
    y = both(x, **options)
    zero = dict(one_plus=1, sigmoid=0.5, raw=0, softmax=1)[options['act']]
    torch.testing.assert_close(y[0], x * zero, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(y[1], x, rtol=1e-5, atol=1e-6)
    y.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize('key', ['gap', 'mean_normed'])
def test_rounding_stays_in_the_range(x, key):
    """Products of large constant tokens are rounded more coarsely than the zero that they should be."""
    x = x.float()
    x[:, :, 0] = 1e4 + 0.1 * torch.rand(7)
    assert saliency(x, HEADS, key).abs().max() <= 1


def test_constant_token_among_others(x):
    x[:, :, 2, 3] = 5.0
    x.requires_grad_()
    assert saliency(x, HEADS)[..., 2, 3].abs().max() < 1e-9
    both(x).square().sum().backward()
    assert x.grad.isfinite().all()


def test_agg_denominator_of_opposed_tokens():
    """Two opposed tokens, seen from either, weigh 2 and 0: the sum is never zero."""
    token = torch.randn(1, 8, 1, 1, dtype=torch.float64)
    x = torch.cat([token, -token], dim=3)
    torch.testing.assert_close(spsa_agg(x, 1), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize('options', GATES)
def test_gradcheck_of_the_gate(options):
    x = torch.randn(2, 6, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: spsa_gate(t, 2, **options), x)


def test_gradcheck_of_agg():
    x = torch.randn(2, 6, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: spsa_agg(t, 2), x)


def test_every_position_sees_every_other(x):
    """Global reach; a depth-wise convolution sees its neighbors."""
    changed = x.clone()
    changed[:, :, 4, 6] += torch.randn(24, dtype=torch.float64)
    difference = (saliency(changed, HEADS) - saliency(x, HEADS)).abs()
    assert difference.min() > 1e-8
    assert (spsa_agg(changed, HEADS) - spsa_agg(x, HEADS)).abs().amax(1).min() > 1e-8
    convolution = torch.nn.Conv2d(24, 24, 3, padding=1, groups=24).double()
    assert (convolution(changed) - convolution(x))[:, :, :3].abs().max() == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('options', GATES)
def test_half_precision(dtype, options):
    x = torch.randn(2, 24, 16, 16).to(dtype)
    expected = both(x.double(), **options)
    found = both(x, **options)
    assert found.dtype == dtype
    # The output is rounded to half precision; what is inside must not be.
    torch.testing.assert_close(found.double(), expected, atol=1e-2, rtol=1e-2 if dtype == torch.bfloat16 else 1e-3)


def test_half_precision_does_not_overflow():
    """|t|^2 of these tokens is above the largest fp16."""
    x = (torch.randn(1, 24, 4, 4) * 300).half()
    torch.testing.assert_close(both(x).float(), both(x.float()), rtol=1e-2, atol=1.0)


@pytest.mark.parametrize('layout', ['channels_last', 'cropped', 'transposed'])
def test_any_memory_layout(x, layout):
    expected = both(x)
    other = dict(
        channels_last=lambda: x.to(memory_format=torch.channels_last),
        cropped=lambda: torch.nn.functional.pad(x, (1, 2, 3, 1))[:, :, 3:-1, 1:-2],
        transposed=lambda: x.transpose(2, 3).contiguous().transpose(2, 3),
    )[layout]()
    assert not other.is_contiguous()
    torch.testing.assert_close(both(other), expected, atol=1e-12, rtol=0)
    if layout == 'channels_last':
        assert spsa_gate(other, HEADS).is_contiguous(memory_format=torch.channels_last)  # no layout change on the way


def test_sequences_and_volumes(x):
    torch.testing.assert_close(both(x.flatten(2)), both(x).flatten(3), atol=1e-12, rtol=0)
    torch.testing.assert_close(both(x.unsqueeze(2)), both(x).unsqueeze(3), atol=1e-12, rtol=0)
