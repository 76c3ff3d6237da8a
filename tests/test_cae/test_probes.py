"""Probes of a frozen encoder."""

import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmplugins.cae.transfer.probes import AttentiveProbeHead

ARCH = dict(embed_dims=48, num_layers=3, num_heads=4, feedforward_channels=192)


def probe(out_type: str, head: dict, neck: dict | None = None) -> torch.nn.Module:
    backbone = dict(type='mmpretrain.CAEViT', arch=ARCH, img_size=32, patch_size=8, out_type=out_type, frozen_stages=3)
    model = MODELS.build(dict(type='mmpretrain.ImageClassifier', backbone=backbone, neck=neck, head=head))
    model.init_weights()
    return model


LINEAR = dict(
    out_type='cls_token',
    neck=dict(type='mmpretrain.ClsBatchNormNeck', input_features=48),
    head=dict(type='mmpretrain.VisionTransformerClsHead', num_classes=3, in_channels=48),
)
ATTENTIVE = dict(
    out_type='raw', head=dict(type='mmpretrain.AttentiveProbeHead', num_classes=3, in_channels=48, num_heads=4)
)


@pytest.mark.parametrize('options', [LINEAR, ATTENTIVE], ids=['linear', 'attentive'])
def test_only_the_probe_learns(options):
    model = probe(**options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    samples = [DataSample().set_gt_label(i % 3) for i in range(6)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    images, losses = torch.randn(6, 3, 32, 32), []
    model.train()
    for _ in range(20):
        loss = model(images, samples, mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith('backbone.') for name in changed)
    assert any(name.startswith('head.') for name in changed)
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_a_fresh_query_sees_the_mean_of_the_tokens():
    head = AttentiveProbeHead(3, 48, num_heads=4)
    head.init_weights()
    head.eval()
    tokens = torch.randn(2, 5, 48)
    # A query of zeros weighs all tokens alike.
    mean = head.attn.proj(head.attn.v(head.norm_v(tokens).mean(1)))
    expected = mean / (1 + 1e-6) ** 0.5  # batch norm with fresh statistics
    torch.testing.assert_close(head.pre_logits((tokens,)), expected, atol=1e-5, rtol=0)


def test_attention_is_brute_force():
    head = AttentiveProbeHead(3, 8, num_heads=2)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    head.eval()
    tokens = torch.randn(1, 4, 8)
    query = head.norm_q(head.query)[0, 0] @ head.attn.q.weight.T + head.attn.q_bias
    keys = head.norm_k(tokens)[0] @ head.attn.k.weight.T
    values = head.norm_v(tokens)[0] @ head.attn.v.weight.T + head.attn.v_bias
    pooled = []
    for part in (slice(0, 4), slice(4, 8)):
        weights = torch.tensor([(query[part] @ key[part] / 2).item() for key in keys]).softmax(0)
        pooled.append(weights @ values[:, part])
    expected = head.bn(head.attn.proj(torch.cat(pooled))[None])
    torch.testing.assert_close(head.pre_logits((tokens,)), expected, atol=1e-5, rtol=1e-5)


def test_batch_norm_has_no_weights_and_every_other_part_learns():
    head = AttentiveProbeHead(3, 48, num_heads=4)
    head.init_weights()
    assert head.bn.weight is None and head.bn.bias is None and head.bn.eps == 1e-6
    head.query.data.normal_()
    head((torch.randn(4, 5, 48),)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())


def test_wrong_features_and_heads_are_told():
    with pytest.raises(ValueError, match="set out_type='raw'"):
        AttentiveProbeHead(3, 48, num_heads=4)((torch.randn(2, 48),))
    with pytest.raises(ValueError, match='in_channels=48 cannot be divided among num_heads=5'):
        AttentiveProbeHead(3, 48, num_heads=5)
