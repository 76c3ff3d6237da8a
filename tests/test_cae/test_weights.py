"""Weights in the authors' layout load without a missing key and give the features of the plain reference."""

import argparse

import pytest
import timm
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmpretrain.registry import MODELS
from torch.nn import functional as F

from mmplugins.cae import CAEViT
from mmplugins.cae.__main__ import main
from mmplugins.cae.regressor import CAERegressorNeck
from mmplugins.cae.targets.codebook import load_codebook
from mmplugins.cae.tokens import split_places
from mmplugins.cae.transfer.finetune_vit import CAEFinetuneViT
from mmplugins.cae.weights.layouts import encoder_of, from_ours, layout_of, to_ours
from mmplugins.utils.weights import read_weights

ARCH = dict(embed_dims=48, num_layers=3, num_heads=4, feedforward_channels=192)
PUBLISHED = {  # in all, trainable: counted in the authors' code
    'v2-tiny': (dict(version=2, dim=192, width=96, regressor_depth=1), 5_726_816, 5_670_080),
    'v2-small': (dict(version=2, dim=384, regressor_depth=1), 23_721_344, 23_570_048),
    'v2-base': (dict(version=2, dim=768, regressor_depth=4), 114_723_584, 114_420_992),
    'v1-base': (dict(version=1, dim=768, regressor_depth=4, decoder_depth=4), 234_791_936, 148_681_472),
}


def ours(width: int = 48, decoder_depth: int = 2) -> torch.nn.ModuleDict:
    """Our encoder and neck, of the sizes of the reference."""
    neck = dict(
        num_classes=20, in_channels=48, embed_dims=width, grid_size=(4, 4), regressor_depth=2,
        decoder_depth=decoder_depth, num_heads=4,
    )  # fmt: skip
    return torch.nn.ModuleDict(dict(backbone=CAEViT(ARCH, 32, 8), neck=CAERegressorNeck(**neck))).eval()


def encoder(state: dict, **arch) -> CAEViT:
    """Our encoder with the weights of a whole model."""
    model = CAEViT({**ARCH, **arch}, 32, 8)
    model.load_state_dict({name.removeprefix('backbone.'): value for name, value in encoder_of(state).items()})
    model.eval()
    return model


def old_names(state: dict) -> dict:
    """The authors' names of 2022, from those of 2023, by hand."""
    renamed = {}
    for name, value in state.items():
        name = name.replace('alignment_encoder.', 'teacher.').replace('encoder_to_regresser', 'encoder_to_decoder')
        name = name.replace('regresser.', 'pretext_neck.').replace('decoder.decoder_', 'pretext_neck.decoder_')
        name = name.replace('decoder.norm', 'pretext_neck.norm2').replace('decoder.head', 'pretext_neck.head')
        if name != 'rd_pos_embed':
            renamed[name] = value
    return renamed


def assert_same(found: dict, expected: dict) -> None:
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize('name', PUBLISHED)
def test_reference_has_the_published_number_of_parameters(authors_cae, name):
    options, total, trainable = PUBLISHED[name]
    sizes = dict(depth=12, heads=12, regressor_heads=12, grid=(14, 14), patch=16)
    with torch.device('meta'):
        model = authors_cae(**sizes, **options, outputs=8192 if name.startswith('v1') else 512)
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable


@pytest.mark.parametrize('old', [False, True], ids=['2023', '2022'])
def test_v1_checkpoint_gives_the_features_of_the_reference(authors_cae, draw_mask, old):
    theirs = authors_cae(version=1).randomize().eval()
    state = old_names(theirs.state_dict()) if old else theirs.state_dict()
    assert layout_of(state) == ('authors-old' if old else 'authors')
    model = ours()
    model.load_state_dict(to_ours(state))  # strict: nothing missing, nothing left over
    images, mask = torch.randn(2, 3, 32, 32), draw_mask(2, 16, 7)
    with torch.no_grad():
        expected = theirs(images, mask)
        visible = model.backbone(images, mask)
        latents, logits = model.neck(visible, mask)
        target = model.neck.project(model.backbone(images, ~mask)[:, 1:])
    torch.testing.assert_close(visible, expected.visible, atol=1e-5, rtol=0)
    torch.testing.assert_close(latents, expected.latent, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(target, expected.target, atol=1e-5, rtol=0)


@pytest.mark.parametrize('width', [48, 24], ids=['same width', 'projected'])
def test_v2_checkpoint_gives_the_features_of_the_reference(authors_cae, draw_mask, width):
    theirs = authors_cae(version=2, width=width).randomize().eval()
    model = ours(width, decoder_depth=0)
    model.load_state_dict(to_ours(theirs.state_dict()))
    images, mask = torch.randn(2, 3, 32, 32), draw_mask(2, 16, 7)
    with torch.no_grad():
        tokens = model.neck.project(model.backbone(images, mask))
        masked = model.neck.regress(tokens[:, 1:], split_places(mask))
        predicted = F.normalize(model.neck.read_out(torch.cat([tokens, masked], 1)), dim=-1)
        torch.testing.assert_close(predicted, theirs(images, mask).predicted, atol=1e-5, rtol=0)


@pytest.mark.parametrize('options', [dict(version=1), dict(version=2, width=24)], ids=['v1', 'v2'])
@pytest.mark.parametrize('old', [False, True], ids=['2023', '2022'])
def test_round_trips_are_exact(authors_cae, options, old):
    state = dict(authors_cae(**options).randomize().state_dict())
    state = old_names(state) if old else state
    there = to_ours(state)
    assert_same(from_ours(there, 'authors-old' if old else 'authors'), state)
    assert_same(to_ours(from_ours(there, 'authors')), there)


def test_timm_vit_gives_the_same_features(authors_cae):
    # One bias for query, key and value, LayerScale: timm's own class is the oracle.
    theirs = timm.create_model(
        'vit_tiny_patch16_224', embed_dim=48, depth=3, num_heads=4, patch_size=8, img_size=32, num_classes=0,
        init_values=0.1, global_pool='token',
    ).eval()  # fmt: skip
    state = to_ours(authors_cae(version=1).randomize().state_dict())
    exported = from_ours(state, 'timm')
    theirs.load_state_dict(exported)
    model = encoder(state)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[0][:, 0], theirs(images), atol=1e-5, rtol=0)
    assert_same(to_ours(exported), encoder_of(state))


def test_number_of_heads_matters(authors_cae):
    state = encoder_of(to_ours(authors_cae(version=1).randomize().state_dict()))
    images, outputs = torch.randn(1, 3, 32, 32), []
    for heads in (4, 3):
        outputs.append(encoder(state, num_heads=heads)(images)[0])
    assert (outputs[0] - outputs[1]).abs().max() > 0.01  # it loads without a word, and is wrong


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('encoder.blocks.1.mlp.fc2.bias'), r'missing: backbone\.layers\.1\.ffn\.layers\.1\.bias$'),
        (lambda s: s.pop('mask_token'), 'missing: neck.mask_token'),
        (lambda s: s.update({'encoder.rubbish': s['mask_token']}), r'unknown weights: encoder\.rubbish$'),
        (
            lambda s: s.update({'regresser.norm.bias': torch.zeros(7)}),
            r'wrong size: neck\.norm_regressor\.bias \(7,\), not \(48,\)',
        ),
    ],
    ids=['missing', 'missing token', 'unknown', 'size'],
)
def test_what_does_not_fit_is_named(authors_cae, change, message):
    state = dict(authors_cae(version=1).state_dict())
    change(state)
    with pytest.raises(ValueError, match=message):
        to_ours(state)


def test_other_models_are_refused():
    with pytest.raises(ValueError, match='not a checkpoint of CAE or of a ViT: conv1.weight'):
        layout_of({'conv1.weight': torch.zeros(1)})


def test_convert_and_export(authors_cae, tmp_path, capsys):
    state = dict(authors_cae(version=1).randomize().state_dict())
    source, whole, back, alone = (tmp_path / f'{name}.pth' for name in ('theirs', 'ours', 'back', 'alone'))
    # Beside the weights the authors save the arguments of their run.
    torch.save(dict(model=state, args=argparse.Namespace(epochs=300), epoch=3), source)
    assert main(['convert', str(source), str(whole)]) == 0
    assert main(['convert', str(whole), str(back), '--to', 'authors']) == 0
    assert_same(read_weights(back), state)
    assert main(['export', str(whole), str(alone)]) == 0
    assert_same(read_weights(alone), encoder_of(to_ours(state)))
    assert main(['export', str(alone), str(back), '--to', 'timm']) == 0
    assert '(timm, encoder only): 48 weights' in capsys.readouterr().out


def test_exported_encoder_loads_into_the_finetune_model(authors_cae, tmp_path):
    state = dict(authors_cae(version=1).randomize().state_dict())
    torch.save(state, tmp_path / 'theirs.pth')
    main(['export', str(tmp_path / 'theirs.pth'), str(tmp_path / 'encoder.pth')])
    weights = read_weights(tmp_path / 'encoder.pth')
    model = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='CAEFinetuneViT', arch=ARCH, img_size=32, patch_size=8),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=48),
        )
    )
    result = model.load_state_dict(weights, strict=False)
    assert result.unexpected_keys == []
    rest = [name for name in result.missing_keys if 'relative_position_bias_table' not in name]
    assert rest == ['head.fc.weight', 'head.fc.bias']
    torch.testing.assert_close(model.backbone.ln2.weight, state['encoder.norm.weight'], atol=0, rtol=0)


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', pytest.param('large', marks=pytest.mark.slow)])
def test_finetune_model_has_the_published_number_of_parameters(arch):
    published = dict(tiny=5_825_128, small=22_160_680, base=86_682_280, large=304_632_296)
    model = CAEFinetuneViT(arch)
    assert sum(p.numel() for p in model.parameters()) + 1000 * (model.embed_dims + 1) == published[arch]


def test_mmengine_checkpoint_is_read_and_its_logs_are_not(authors_cae, tmp_path):
    state = to_ours(authors_cae(version=1).state_dict())
    hub = dict(log_scalars=dict(loss=HistoryBuffer([1.0, 2.0], [1, 1])))
    torch.save(dict(state_dict={'module.' + k: v for k, v in state.items()}, message_hub=hub), tmp_path / 'a.pth')
    assert_same(read_weights(tmp_path / 'a.pth'), state)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ('run!',)

    torch.save(dict(model=dict(a=torch.zeros(1)), args=Evil()), tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match='evil.pth is not a checkpoint that can be read safely'):
        read_weights(tmp_path / 'evil.pth')


def test_empty_and_absent_files_are_told(tmp_path, capsys):
    torch.save(dict(epoch=3), tmp_path / 'empty.pth')
    assert main(['convert', str(tmp_path / 'empty.pth'), str(tmp_path / 'x.pth')]) == 1
    assert 'convert: ' in (said := capsys.readouterr().err) and 'holds no weights' in said
    assert main(['export', str(tmp_path / 'absent.pth'), str(tmp_path / 'x.pth')]) == 1
    assert 'absent.pth' in capsys.readouterr().err
    assert not (tmp_path / 'x.pth').exists()


def test_fit_codebook_of_a_folder(repo, tmp_path, capsys):
    folder, out = repo / 'tests/data/clothing10/val/hat', tmp_path / 'tokens'
    options = ['--num-tokens', '7', '--patch-size', '8', '--img-size', '16', '24']
    assert main(['fit-codebook', str(folder), str(out), *options]) == 0
    centers, patch_size, window = load_codebook(tmp_path / 'tokens.npz')
    assert (tuple(centers.shape), patch_size, window) == ((7, 192), 8, 8)
    assert '7 tokens of' in capsys.readouterr().out
    for more, message in (
        (['--img-size', '16', '24', '32'], '--img-size takes a height and a width, or one number for both'),
        (['--patch-size', '0'], 'patch_size=0'),
        (['--img-size', '20'], 'each side must be a multiple of the patch size'),
    ):
        assert main(['fit-codebook', str(folder), str(out), *options, *more]) == 1
        assert message in capsys.readouterr().err
    assert main(['fit-codebook', str(tmp_path / 'none'), str(out)]) == 1
    assert 'fit-codebook: no images in' in capsys.readouterr().err
