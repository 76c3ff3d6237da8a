"""A published DINO as the start of METR. The keys are those of mmdet 3.3's DINO-4scale R50, 2 D wide."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import load_checkpoint

from mmplugins.metr.__main__ import main
from mmplugins.metr.from_dino import convert

# Shape, then keys; `{6}` stands for 0 to 5. Without the backbone, whose names are torchvision's.
KEYS = """
256,512,1,1 neck.convs.0.conv.weight
256,1024,1,1 neck.convs.1.conv.weight
256,2048,1,1 neck.convs.2.conv.weight
256 neck.convs.{3}.gn.weight neck.convs.{3}.gn.bias neck.extra_convs.0.gn.weight neck.extra_convs.0.gn.bias
256,2048,3,3 neck.extra_convs.0.conv.weight
4,256 level_embed
900,256 query_embedding.weight
80,256 dn_query_generator.label_embedding.weight
256,256 memory_trans_fc.weight
256 memory_trans_fc.bias memory_trans_norm.weight memory_trans_norm.bias
256,256 {E}.self_attn.sampling_offsets.weight {E}.self_attn.value_proj.weight {E}.self_attn.output_proj.weight
256 {E}.self_attn.sampling_offsets.bias {E}.self_attn.value_proj.bias {E}.self_attn.output_proj.bias
128,256 {E}.self_attn.attention_weights.weight
128 {E}.self_attn.attention_weights.bias
2048,256 {E}.ffn.layers.0.0.weight {D}.ffn.layers.0.0.weight
2048 {E}.ffn.layers.0.0.bias {D}.ffn.layers.0.0.bias
256,2048 {E}.ffn.layers.1.weight {D}.ffn.layers.1.weight
256 {E}.ffn.layers.1.bias {D}.ffn.layers.1.bias
256 {E}.norms.{2}.weight {E}.norms.{2}.bias {D}.norms.{3}.weight {D}.norms.{3}.bias
768,256 {D}.self_attn.attn.in_proj_weight
768 {D}.self_attn.attn.in_proj_bias
256,256 {D}.self_attn.attn.out_proj.weight
256 {D}.self_attn.attn.out_proj.bias
256,256 {D}.cross_attn.sampling_offsets.weight {D}.cross_attn.value_proj.weight {D}.cross_attn.output_proj.weight
256 {D}.cross_attn.sampling_offsets.bias {D}.cross_attn.value_proj.bias {D}.cross_attn.output_proj.bias
128,256 {D}.cross_attn.attention_weights.weight
128 {D}.cross_attn.attention_weights.bias
256,512 decoder.ref_point_head.layers.0.weight
256,256 decoder.ref_point_head.layers.1.weight
256 decoder.ref_point_head.layers.{2}.bias decoder.norm.weight decoder.norm.bias
80,256 bbox_head.cls_branches.{7}.weight
80 bbox_head.cls_branches.{7}.bias
256,256 bbox_head.reg_branches.{7}.0.weight bbox_head.reg_branches.{7}.2.weight
256 bbox_head.reg_branches.{7}.0.bias bbox_head.reg_branches.{7}.2.bias
4,256 bbox_head.reg_branches.{7}.4.weight
4 bbox_head.reg_branches.{7}.4.bias
"""


def expand(key: str) -> list[str]:
    """Write out the numbers of a key."""
    head, brace, tail = key.partition('{')
    if not brace:
        return [key]
    count, _, tail = tail.partition('}')
    return [name for i in range(int(count)) for name in expand(f'{head}{i}{tail}')]


@pytest.fixture(scope='module')
def published() -> dict[str, torch.Tensor]:
    """A state dict with the keys of the published checkpoint, but for the backbone."""
    torch.manual_seed(0)
    state = {}
    for line in KEYS.strip().splitlines():
        shape, *keys = line.replace('{E}', 'encoder.layers.{6}').replace('{D}', 'decoder.layers.{6}').split()
        for name in (name for key in keys for name in expand(key)):
            state[name] = torch.randn(*map(int, shape.split(',')))
    assert len(state) == 627 - 318
    return state


@pytest.fixture
def paper_cfg(repo) -> Config:
    """The config of the paper, all layers shared or not by the test; no weights of a URL."""
    cfg = Config.fromfile(repo / 'configs/metr/metr_dino-4scale_r50_8xb1-12e_coco.py')
    cfg.model.backbone.init_cfg = None
    return cfg


@pytest.mark.slow
def test_the_published_checkpoint_is_taken_but_for_what_dino_has_not(published, paper_cfg, tmp_path, capsys):
    paper_cfg.model.bbox_head.share_layers = False
    model = MODELS.build(copy.deepcopy(paper_cfg.model))
    backbone = {key: value for key, value in model.state_dict().items() if key.startswith('backbone.')}
    assert len(backbone) == 318
    torch.save(dict(state_dict={**backbone, **published}), tmp_path / 'dino.pth')
    paper_cfg.dump(tmp_path / 'metr.py')
    arguments = ['from-dino', str(tmp_path / 'metr.py'), str(tmp_path / 'dino.pth'), '--out', str(tmp_path / 'x.pth')]
    assert main(arguments) == 0
    lines = capsys.readouterr().out
    assert 'start anew: weights of bbox_head, cem, dn_query_generator, query_embedding, text_bank' in lines
    assert 'frequency' not in lines
    load_checkpoint(model, str(tmp_path / 'x.pth'))
    anew = ('bbox_head.cls_branches.', 'cem.', 'text_bank.', 'query_embedding.', 'dn_query_generator.')
    for key, value in model.state_dict().items():
        if not key.startswith((*anew, 'backbone.')):
            assert torch.equal(value, published[key]), key
    # Also without the verb, as `load_from` of a config.
    again = MODELS.build(copy.deepcopy(paper_cfg.model))
    load_checkpoint(again, str(tmp_path / 'dino.pth'))
    assert torch.equal(
        again.decoder.ref_point_head.layers[0].weight, published['decoder.ref_point_head.layers.0.weight']
    )


def test_host_s_dino_and_back(detector_cfg, build_detector):
    """Also of the fork, whose head is wider: what METR gave it comes back."""
    from mmplugins.metr import to_dino

    cfg = Config(dict(model=detector_cfg()))
    metr = build_detector()
    host = to_dino.convert(metr.state_dict(), to_dino.host_config(cfg.model, num_classes=4, num_queries=12))
    back = convert(host, metr)
    assert all(torch.equal(value, metr.state_dict()[key]) for key, value in back.items())
    assert {key.split('.')[0] for key in metr.state_dict() if key not in back} == {
        *('bbox_head', 'cem', 'text_bank', 'query_embedding', 'dn_query_generator')
    }


def test_dino_of_another_width(detector_cfg, build_detector, published):
    with pytest.raises(ValueError, match='not the base of the config: .*do not fit'):
        convert(published, build_detector())
