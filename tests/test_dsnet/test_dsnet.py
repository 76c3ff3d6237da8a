"""DSNet: published counts, shapes at any size, freezing, drop path, options."""

import sys

import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner import load_checkpoint
from mmpretrain.registry import MODELS
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mmplugins.dsnet import DSNet

TINY = dict(embed_dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), num_heads=(1, 2, 3, 4), global_ratios=(8, 4, 2, 2))
# arch, alignment: parameters with 1000 classes and without; GMACs at 224, published, and at 800 x 1344.
SIZES = [
    ('tiny', True, 10_534_312, 10_021_312, 1.832, 1.8, 77.9),
    ('tiny', False, 9_095_848, 8_582_848, 1.579, None, 35.6),
    pytest.param('small', True, 23_004_552, 22_491_552, 3.547, 3.5, 145.0, marks=pytest.mark.slow),
    pytest.param('small', False, 19_608_840, 19_095_840, 3.058, None, 69.1, marks=pytest.mark.slow),
    pytest.param('base', True, 49_343_752, 48_830_752, 8.293, 8.4, 307.2, marks=pytest.mark.slow),
    pytest.param('base', False, 41_813_640, 41_300_640, 7.179, None, 164.1, marks=pytest.mark.slow),
]


def classifier(classes: int = 1000, channels: int = 512, **backbone) -> nn.Module:
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='DSNet', **backbone),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=classes, in_channels=channels),
        )
    )


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(('arch', 'align', 'whole', 'backbone', 'at_224', 'published', 'at_800'), SIZES)
def test_parameters_and_multiplications(arch, align, whole, backbone, at_224, published, at_800):
    with torch.device('meta'):  # counted by torch, not run
        model = classifier(arch=arch, inter_scale_align=align).eval()
        assert count(model) == whole
        assert count(model.backbone) == backbone

        def gmacs(height: int, width: int) -> float:
            with FlopCounterMode(display=False) as counter:
                model.backbone(torch.empty(1, 3, height, width))
            # What ours saves: it projects the global stream where that is small.
            saved = sum(
                block.norm1.num_features * block.global_channels * 2 * (h * w - (h // r) * (w // r))
                for i, stage in enumerate(model.backbone.stages)
                for block in stage
                for h, w, r in [(height // (4 * 2**i), width // (4 * 2**i), block.global_ratio)]
            )
            assert 0.02 < saved / (counter.get_total_flops() / 2) < 0.1
            return counter.get_total_flops() / 2e9 + saved / 1e9

        found = gmacs(224, 224)
        assert found == pytest.approx(at_224, rel=1e-3)
        assert published is None or found == pytest.approx(published, rel=0.02)
        assert at_800 is None or gmacs(800, 1344) == pytest.approx(at_800, rel=2e-3)


@pytest.mark.parametrize(
    ('size', 'sides'),
    [
        ((224, 224), [(56, 56), (28, 28), (14, 14), (7, 7)]),
        ((200, 312), [(50, 78), (25, 39), (13, 20), (7, 10)]),
        ((33, 47), [(9, 12), (5, 6), (3, 3), (2, 2)]),
        ((5, 1), [(2, 1), (1, 1), (1, 1), (1, 1)]),
    ],
)
def test_sides_are_rounded_up(size, sides):
    net = DSNet(TINY, out_indices=(0, 1, 2, 3)).eval()
    outputs = net(torch.randn(2, 3, *size))
    assert [tuple(y.shape) for y in outputs] == [(2, c, *s) for c, s in zip(TINY['embed_dims'], sides, strict=True)]
    assert all(y.isfinite().all() for y in outputs)
    assert all(y.is_contiguous() for y in outputs)  # RoIAlign reads the memory as it lies


def test_outputs_come_in_the_order_that_was_asked_for():
    net = DSNet(TINY, out_indices=(0, 1, 2, 3)).eval()
    other = DSNet(TINY, out_indices=(-1, 0, 2)).eval()
    other.load_state_dict(net.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    expected = net(x)
    assert all(torch.equal(y, expected[i]) for y, i in zip(other(x), (3, 0, 2), strict=True))
    assert [(f['num_chs'], f['reduction']) for f in other.feature_info] == [(64, 32), (16, 4), (48, 16)]
    for feature, y in zip(other.feature_info, other(x), strict=True):
        assert (feature['num_chs'], 64 // feature['reduction']) == (y.shape[1], y.shape[2])
        assert other.get_submodule(feature['module']) is not None


def test_built_without_memory():
    with torch.device('meta'):
        assert DSNet(TINY)(torch.empty(1, 3, 64, 64))[0].shape == (1, 64, 2, 2)
    with FakeTensorMode():
        net = DSNet(TINY)
        assert net(torch.empty(1, 3, 64, 64))[0].shape == (1, 64, 2, 2)


def test_checkpointing_counts_a_batch_once():
    nets = [DSNet(TINY, with_cp=with_cp, drop_path_rate=0.0, attn_drop_rate=0.0) for with_cp in (False, True)]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(2, 3, 64, 64)
    for net in nets:
        net(x)[0].square().mean().backward()
    torch.testing.assert_close(nets[1].state_dict(), nets[0].state_dict())


def test_padding_is_right_and_below_with_zeros():
    net = DSNet(TINY, out_indices=0).eval()
    x = torch.randn(1, 3, 30, 35)
    padded = torch.zeros(1, 3, 32, 36)
    padded[:, :, :30, :35] = x
    assert torch.equal(net(x)[0], net(padded)[0])


@pytest.mark.parametrize(
    ('global_ratios', 'tokens'),
    [((8, 4, 2, 2), [49, 49, 49, 9]), ((8, 4, 2, 1), [49, 49, 49, 49])],
    ids=['code', 'text'],
)
def test_tokens_of_the_global_stream_at_224(global_ratios, tokens):
    """In the last stage the public code has 3x3, the paper's text 7x7; the code's is the default."""
    assert DSNet.arch_settings['tiny']['global_ratios'] == (8, 4, 2, 2)
    seen = []
    with torch.device('meta'):
        net = DSNet(dict(DSNet.arch_settings['tiny'], global_ratios=global_ratios)).eval()
        for stage in net.stages:
            stage[0].glob.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
        net(torch.empty(1, 3, 224, 224))
    assert seen == tokens


def test_which_outputs_have_a_norm(shake):
    x = torch.randn(1, 3, 32, 32)
    names = {}
    for out_norm in ('last', 'all', 'none'):
        net = DSNet(TINY, out_indices=(3, 0), out_norm=out_norm)
        names[out_norm] = [name for name, _ in net.named_children() if name.startswith('norm')]
    assert names == dict(last=['norm3'], all=['norm0', 'norm3'], none=[])
    assert not hasattr(DSNet(TINY, out_indices=(0, 1)), 'norm3')  # a weight that nothing uses stops DDP
    net = shake(DSNet(TINY, out_norm='last'))
    plain = DSNet(TINY, out_norm='none').eval()
    plain.load_state_dict(net.state_dict(), strict=False)
    torch.testing.assert_close(net(x)[0], net.norm3(plain(x)[0]))


def test_alignment_can_be_taken_away(shake):
    """Invariant: zero projections of the alignment leave the network without alignment."""
    net, plain = shake(DSNet(TINY)), DSNet(TINY, inter_scale_align=False).eval()
    for block in (block for stage in net.stages for block in stage):
        for projection in (block.align.local_proj, block.align.global_proj):
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)
    plain.load_state_dict(net.state_dict(), strict=False)
    x = torch.randn(2, 3, 64, 48)
    assert torch.equal(net(x)[0], plain(x)[0])


def test_without_global_channels_no_weight_is_of_attention():
    local = DSNet(TINY, split_ratio=0.0)
    assert not [name for name in local.state_dict() if 'qkv' in name]
    assert local(torch.randn(2, 3, 32, 64))[0].shape == (2, 64, 1, 2)


@pytest.mark.parametrize('split_ratio', [0.0, 0.25, 0.5, 1.0])
def test_all_parameters_get_gradients(split_ratio):
    arch = dict(TINY, num_heads=(1, 2, 3, 4))
    net = DSNet(arch, split_ratio=split_ratio, drop_path_rate=0.0, out_indices=(0, 1, 2, 3), out_norm='all')
    sum(y.square().mean() for y in net(torch.randn(2, 3, 128, 128))).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def rates(net: DSNet) -> list[list[float]]:
    return [[round(block.drop_path.drop_prob, 4) for block in stage] for stage in net.stages]


def test_drop_path_grows_over_all_blocks():
    with torch.device('meta'):
        assert rates(DSNet('tiny', drop_path_rate=0.8)) == [[0, 0.1], [0.2, 0.3], [0.4, 0.5, 0.6, 0.7], [0.8]]
        net = DSNet('base', drop_path_rate=0.1, legacy_drop_path=True)
    # The public code: the last stage of B has 0 … 0.0054.
    assert rates(net)[3] == [0, 0.0027, 0.0054]
    assert all(stage[:3] == [0, 0.0027, 0.0054] for stage in rates(net))


@pytest.mark.parametrize('frozen', [-1, 0, 1, 2, 4])
def test_frozen_stages(frozen):
    net = DSNet(TINY, frozen_stages=frozen, drop_path_rate=0.0, out_norm='none').train()
    net(torch.randn(2, 3, 64, 64, requires_grad=True))[0].sum().backward()
    for index in range(4):
        for part, first in ((net.patch_embeds[index], 0 if index == 0 else index + 1), (net.stages[index], index + 1)):
            is_frozen = frozen >= first
            assert all((parameter.grad is None) is is_frozen for parameter in part.parameters()), index
            assert all(m.training is not is_frozen for m in part.modules() if isinstance(m, nn.BatchNorm2d))


def test_norm_eval():
    net = DSNet(TINY, norm_eval=True).train()
    assert not any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert net.stages[0][0].training
    assert DSNet(TINY).train().stages[0][0].norm1.training


def test_images_do_not_depend_on_each_other():
    net = DSNet(TINY).eval()
    x = torch.randn(3, 3, 64, 40)
    torch.testing.assert_close(net(x)[0], torch.cat([net(image[None])[0] for image in x]), atol=1e-5, rtol=1e-5)


def test_initialization():
    net = DSNet(TINY)
    before = net.stages[0][0].local_in.weight.clone()
    net.init_weights()
    assert torch.equal(net.stages[0][0].local_in.weight, before)  # convolutions stay as torch made them
    linear = torch.cat([m.weight.flatten() for m in net.modules() if isinstance(m, nn.Linear)])
    assert linear.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any(m.bias.any() for m in net.modules() if isinstance(m, nn.Linear))


def test_pretrained_weights_of_a_classifier(tmp_path):
    model = classifier(10, 64, arch=TINY)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix='backbone.')
    net = ROOT_MODELS.build(dict(type='mmpretrain.DSNet', arch=TINY, out_indices=(0, 1, 2, 3), init_cfg=pretrained))
    net.init_weights()
    for key, value in net.state_dict().items():
        assert torch.equal(value, model.backbone.state_dict()[key]), key


def test_older_checkpoints_load(tmp_path):
    """They have one projection for both streams: ``[global | local]`` before the split, ``[local | global]`` behind."""
    model, other = classifier(10, 64, arch=TINY), classifier(10, 64, arch=TINY)
    state = model.state_dict()
    for prefix in [key.removesuffix('local_in.weight') for key in state if key.endswith('local_in.weight')]:
        for name in ('weight', 'bias'):
            parts = [state.pop(f'{prefix}{stream}_in.{name}') for stream in ('global', 'local')]
            state[f'{prefix}proj_in.{name}'] = torch.cat(parts)
        parts = [state.pop(f'{prefix}{stream}_out.weight') for stream in ('local', 'global')]
        state[f'{prefix}proj_out.weight'] = torch.cat(parts, dim=1)
        state[f'{prefix}proj_out.bias'] = state.pop(f'{prefix}local_out.bias')
    torch.save(dict(state_dict=state), tmp_path / 'older.pth')
    load_checkpoint(other, str(tmp_path / 'older.pth'), strict=True)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('split_ratio', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('inter_scale_align', [True, False], ids=['aligned', 'plain'])
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_every_layer_with_weights_is_called(split_ratio, inter_scale_align, training, silent):
    net = DSNet(
        TINY,
        split_ratio=split_ratio,
        inter_scale_align=inter_scale_align,
        out_indices=(0, 1, 2, 3),
        out_norm='all',
    )
    assert not silent(net.train(training), torch.randn(2, 3, 75, 101))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    net = DSNet(TINY, drop_path_rate=0.0, attn_drop_rate=0.0)
    x = torch.randn(2, 3, 64, 64)
    with torch.autocast('cpu', dtype=dtype):
        y = net(x)[0]
    assert y.isfinite().all()
    y.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_arguments_are_not_changed():
    arch = {key: list(value) for key, value in TINY.items()}
    DSNet(arch)
    assert arch == {key: list(value) for key, value in TINY.items()}


WITHOUT_MMDET = """
import sys
sys.modules['mmdet'] = None  # as if it were not installed
import torch
from mmplugins.dsnet import DSNet
print(tuple(DSNet().eval()(torch.zeros(1, 3, 32, 32))[0].shape))
from mmplugins.dsnet import DSFPN
"""


def test_without_mmdet(run):
    done = run(sys.executable, '-W', 'ignore', '-c', WITHOUT_MMDET, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and '(1, 512, 1, 1)' in lines
    assert lines[-1] == 'ImportError: DSFPN needs mmdet: pip install onedl-mmdetection'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='huge'), "arch='huge' is not one of tiny, small, base"),
        (dict(arch=dict(embed_dims=(16, 32))), 'needs depths, embed_dims, global_ratios, num_heads, one entry a stage'),
        (dict(arch=dict(TINY, depths=(1, 1))), 'one entry a stage'),
        (dict(arch=dict(TINY, width=2)), 'at most patch_sizes too'),
        (dict(arch=dict(TINY, num_heads=(3, 2, 3, 4))), 'num_heads=3 does not divide the 8 channels'),
        (dict(arch=TINY, split_ratio=2), 'split_ratio=2'),
        (dict(arch=TINY, out_indices=(0, 4)), r'out_indices=\(0, 4\): there are 4 stages'),
        (dict(arch=TINY, out_norm='first'), "out_norm='first' is not 'last', 'all' or 'none'"),
        (dict(arch=TINY, frozen_stages=5), 'frozen_stages=5'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DSNet(**options)
