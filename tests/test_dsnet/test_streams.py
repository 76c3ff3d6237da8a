"""The streams and their alignment: equal to explicit matrices, which are never stored."""

import pytest
import torch
from torch import nn

from mmplugins.dsnet import GlobalStream, InterScaleAlignment, LocalStream, attend
from mmplugins.dsnet.streams import split_heads


def test_heads_are_contiguous_parts_of_q_k_v():
    qkv = torch.arange(2 * 5 * 24.0).view(2, 5, 24)
    parts = split_heads(qkv, num_heads=2)
    for index, part in enumerate(parts):
        assert part.shape == (2, 2, 5, 4)
        for head in range(2):
            start = index * 8 + head * 4
            assert torch.equal(part[:, head], qkv[..., start : start + 4])


@pytest.mark.parametrize(('queries', 'keys'), [(7, 7), (40, 3), (3, 40), (1, 1)])
def test_attention(queries, keys, attention):
    q, k, v = torch.randn(2, 3, queries, 8), torch.randn(2, 3, keys, 8), torch.randn(2, 3, keys, 8)
    torch.testing.assert_close(attend(q, k, v), attention(q, k, v), atol=1e-5, rtol=1e-5)
    # Every row of the matrix sums to one.
    torch.testing.assert_close(attend(q, k, torch.ones_like(v)), torch.ones(2, queries, 24))


def test_streams_follow_their_formulas(attention, shake):
    local, glob = shake(LocalStream(6)), shake(GlobalStream(12, num_heads=3))
    x, t = torch.randn(2, 6, 5, 7), torch.randn(2, 9, 12)
    torch.testing.assert_close(local(x), x + local.dwconv(local.norm(x)))
    q, k, v = (part.view(2, 9, 3, 4).transpose(1, 2) for part in glob.qkv(glob.norm(t)).split(12, dim=-1))
    torch.testing.assert_close(glob(t), t + attention(q, k, v))


@pytest.mark.parametrize(('local_channels', 'global_channels'), [(12, 12), (18, 6), (5, 12)])
def test_alignment_follows_its_formula(local_channels, global_channels, attention, shake):
    align = shake(InterScaleAlignment(local_channels, global_channels, num_heads=3))
    local, glob = torch.randn(2, local_channels, 4, 6), torch.randn(2, 5, global_channels)

    def heads(tokens):
        return [
            p.reshape(2, p.shape[1], 3, -1).transpose(1, 2) for p in tokens.split(global_channels, dim=-1)
        ]  # fmt: skip

    lq, lk, lv = heads(align.local_qkv(align.local_norm(local)).flatten(2).transpose(1, 2))
    gq, gk, gv = heads(align.global_qkv(align.global_norm(glob)))
    found = align(local, glob)
    to_local = align.local_proj(attention(lq, gk, gv)).transpose(1, 2).reshape(local.shape)
    torch.testing.assert_close(found[0], local + to_local)
    # With the values from before the alignment, not with the new local stream.
    torch.testing.assert_close(found[1], glob + align.global_proj(attention(gq, lk, lv)))


@pytest.mark.parametrize('drop_rate', [0.0, 0.5])
def test_dropout_of_attention_in_training_only(drop_rate):
    t = torch.randn(1, 6, 8)
    stream = GlobalStream(8, num_heads=2, attn_drop_rate=drop_rate)
    align = InterScaleAlignment(8, 8, num_heads=2, attn_drop_rate=drop_rate, norm_cfg=dict(type='GN', num_groups=1))
    local = torch.randn(1, 8, 3, 4)
    for call in (lambda: stream(t), lambda: align(local, t)[0], lambda: align(local, t)[1]):
        for module in (stream, align):
            module.train()
        assert torch.equal(call(), call()) is (drop_rate == 0)
        for module in (stream, align):
            module.eval()
        assert torch.equal(call(), call())


def test_no_attention_matrix_is_kept_for_backward():
    """Nothing that is saved has as many elements as a matrix; the explicit attention would keep two of 1200 x 300."""
    align = InterScaleAlignment(16, 16, num_heads=1).train()
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        local, glob = align(torch.randn(1, 16, 30, 40, requires_grad=True), torch.randn(1, 300, 16))
    assert max(sizes) <= 3 * 16 * 1200
    (local.sum() + glob.sum()).backward()
    assert all(parameter.grad is not None for parameter in align.parameters())


def test_strides_allow_the_fused_kernel():
    """It wants a dense last axis; else torch silently stores the matrix."""
    align = InterScaleAlignment(16, 16, num_heads=2)
    seen = []
    original = nn.functional.scaled_dot_product_attention

    def spy(q, k, v, **options):
        seen.extend(t.stride(-1) for t in (q, k, v))
        return original(q, k, v, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, 'scaled_dot_product_attention', spy)
        align(torch.randn(2, 16, 6, 8), torch.randn(2, 4, 16))
    assert seen == [1] * 6
