"""Encoders from other makers' files, and models back into other makers' classes: equal features, equal logits."""

import pytest
import timm
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import nn

from mmplugins.cae import CAEDenseViT, CAEViT, ViTPyramid
from mmplugins.cae.__main__ import main
from mmplugins.cae.transfer.finetune_vit import CAEFinetuneViT
from mmplugins.cae.weights.huggingface import write_folder
from mmplugins.cae.weights.start import heads_in_config
from mmplugins.utils.weights import read_weights

transformers = pytest.importorskip('transformers')
# One head for each 64 channels, as all but CAE's Ti and S have it.
SIZES = dict(img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2)
ARCH = dict(embed_dims=128, num_layers=2, num_heads=2, feedforward_channels=512)
CAE_ARCH = dict(embed_dims=48, num_layers=3, num_heads=4, feedforward_channels=192)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Initializing a model writes a line for each weight."""
    monkeypatch.setattr('mmengine.model.base_module.print_log', lambda *args, **kwargs: None)


def randomized(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def start(path, cls=CAEViT, arch=ARCH, **kwargs):
    """Our encoder, started as a config says."""
    init_cfg = dict(type='Pretrained', checkpoint=str(path), **kwargs.pop('init_cfg', {}))
    model = cls(arch, 32, patch_size=8, init_cfg=init_cfg, **kwargs)
    model.init_weights()
    model.eval()
    return model


def same(found, expected, tolerance=2e-5):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-4)


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('kind', ['timm', 'scaled', 'mae', 'dino'])
@torch.no_grad()
def test_vits(tmp_path, kind):
    scale = dict(init_values=0.1) if kind == 'scaled' else {}
    model = randomized(timm.create_model('vit_base_patch16_224', num_classes=0, **SIZES, **scale))
    state = dict(model.state_dict())
    if kind == 'mae':  # its pretraining has a decoder beside the encoder
        state.update({'mask_token': torch.zeros(1), 'decoder_blocks.0.norm1.weight': torch.zeros(1)})
        state = dict(model=state)
    if kind == 'dino':  # student and teacher, each with a head behind it
        state = {f'backbone.{name}': value for name, value in state.items()}
        state = dict(student={}, teacher={**state, 'head.mlp.0.weight': torch.zeros(1)})
    torch.save(state, tmp_path / 'vit.pth')
    ours = start(tmp_path / 'vit.pth', layer_scale_init_value=0.1 if scale else None)
    same(ours(IMAGES)[0], model.forward_features(IMAGES))
    everything = torch.zeros(2, 16, dtype=torch.bool)
    everything[:, -1] = True
    assert ours(IMAGES, everything).shape == (2, 16, 128)  # and it can be pretrained from there


@torch.no_grad()
def test_clip(tmp_path):
    model = randomized(timm.create_model('vit_base_patch16_clip_quickgelu_224', num_classes=20, **SIZES))
    names = dict(cls_token='class_embedding', pos_embed='positional_embedding')
    state = {}
    for name, value in model.state_dict().items():
        if name.startswith('head.'):
            continue
        for ours, theirs in (
            ('norm_pre.', 'ln_pre.'), ('blocks.', 'transformer.resblocks.'), ('norm1.', 'ln_1.'), ('norm2.', 'ln_2.'),
            ('attn.qkv.', 'attn.in_proj_'), ('attn.proj.', 'attn.out_proj.'), ('mlp.fc1.', 'mlp.c_fc.'),
            ('mlp.fc2.', 'mlp.c_proj.'), ('patch_embed.proj.', 'conv1.'), ('cls_token', names['cls_token']),
            ('pos_embed', names['pos_embed']),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        name = f'ln_post.{name[5:]}' if name.startswith('norm.') else name
        state[f'visual.{name}'] = value[0, 0] if 'class_emb' in name else value[0] if 'positional' in name else value
    torch.save({**state, 'visual.proj': torch.zeros(1), 'text_projection': torch.zeros(1)}, tmp_path / 'clip.pth')
    own = dict(layer_scale_init_value=None, norm_cfg=dict(type='LN', eps=1e-5))
    act = dict(act_cfg=dict(type='mmpretrain.QuickGELU'))
    ours = start(tmp_path / 'clip.pth', pre_norm=True, layer_cfgs=act, **own)
    same(ours(IMAGES)[0], model.forward_features(IMAGES))
    with pytest.raises(ValueError, match='no place for: pre_norm.weight, pre_norm.bias'):
        start(tmp_path / 'clip.pth', layer_cfgs=act, **own)


@pytest.mark.parametrize('shared', [False, True])
@torch.no_grad()
def test_beit(tmp_path, shared):
    kind = dict(use_shared_rel_pos_bias=True, use_rel_pos_bias=False) if shared else {}
    model = timm.models.beit.Beit(**SIZES, num_classes=0, init_values=0.1, **{'use_rel_pos_bias': True, **kind})
    model = randomized(model)
    state = {**model.state_dict(), 'mask_token': torch.zeros(1)}
    torch.save(dict(model=state), tmp_path / 'beit.pth')
    ours = start(tmp_path / 'beit.pth', CAEFinetuneViT, out_type='raw' if shared else 'avg_featmap')
    tokens = model.forward_features(IMAGES)
    same(ours(IMAGES)[0], tokens if shared else model.fc_norm(tokens[:, 1:].mean(1)))
    with pytest.raises(ValueError, match=r'no place for: layers.0.attn.relative_position_bias_table'):
        start(tmp_path / 'beit.pth')


@torch.no_grad()
def test_beit_of_transformers_as_it_is_published(tmp_path):
    sizes = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
    config = transformers.BeitConfig(**sizes, image_size=32, patch_size=8, use_relative_position_bias=True)
    model = randomized(transformers.BeitForImageClassification(config))
    torch.save(model.state_dict(), tmp_path / 'beit.pth')
    ours = start(tmp_path / 'beit.pth', CAEFinetuneViT)
    same(ours(IMAGES)[0], model.beit(IMAGES).pooler_output)


def test_learned_tables_of_others_are_square(tmp_path):
    theirs = timm.create_model('vit_base_patch16_224', num_classes=0, **{**SIZES, 'img_size': 48})  # 36 = 4 * 9
    nn.init.normal_(theirs.pos_embed)
    torch.save(theirs.state_dict(), tmp_path / 'vit.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'vit.pth'))
    ours = CAEViT(ARCH, (32, 72), 8, layer_scale_init_value=None, init_cfg=init_cfg)
    ours.init_weights()
    places = theirs.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (6, 6))
    expected = nn.functional.interpolate(places, (4, 9), mode='bicubic')
    torch.testing.assert_close(ours.pos_embed[:, 1:], expected.flatten(2).transpose(1, 2))


def test_what_would_load_in_silence_is_told(tmp_path):
    state = timm.create_model('vit_base_patch16_224', num_classes=0, **SIZES).state_dict()
    path = tmp_path / 'vit.pth'
    torch.save(state, path)
    with pytest.raises(ValueError, match='vit.pth .* no LayerScale, unlike the model: set layer_scale_init_value=None'):
        start(path)
    plain = dict(layer_scale_init_value=None)
    with pytest.raises(ValueError, match='of a ViT with 2 heads, the model has 4'):
        start(path, arch={**ARCH, 'num_heads': 4}, **plain)
    start(path, arch={**ARCH, 'num_heads': 4}, init_cfg=dict(num_heads=4), **plain)
    with pytest.raises(ValueError, match='size mismatch'):
        start(path, arch={**ARCH, 'feedforward_channels': 256}, **plain)
    with pytest.raises(ValueError, match='lacks weights of the encoder: layers.2'):
        start(path, arch={**ARCH, 'num_layers': 3}, **plain)
    torch.save({**state, 'reg_token': torch.zeros(1, 4, 128)}, path)
    with pytest.raises(ValueError, match='unknown weights: reg_token'):
        start(path, **plain)


DEIT_TINY = dict(embed_dims=192, num_layers=1, num_heads=3, feedforward_channels=768)


@torch.no_grad()
def test_number_of_heads_goes_with_the_weights(tmp_path, capsys):
    sizes = {**SIZES, 'embed_dim': 192, 'depth': 1, 'num_heads': 3}
    theirs = randomized(timm.create_model('vit_tiny_patch16_224', num_classes=0, **sizes))
    torch.save(theirs.state_dict(), tmp_path / 'deit.pth')
    assert main(['convert', str(tmp_path / 'deit.pth'), str(tmp_path / 'ours.pth')]) == 0
    plain = dict(layer_scale_init_value=None)
    for name in ('deit.pth', 'ours.pth'):
        same(start(tmp_path / name, arch=DEIT_TINY, **plain)(IMAGES)[0], theirs.forward_features(IMAGES))
        with pytest.raises(ValueError, match='of a ViT with 3 heads, the model has 12'):
            start(tmp_path / name, arch={**DEIT_TINY, 'num_heads': 12}, **plain)
        assert main(['export', str(tmp_path / name), str(tmp_path / 'hf'), '--to', 'hf']) == 0
        model = transformers.BeitModel.from_pretrained(tmp_path / 'hf', add_pooling_layer=False).eval()
        same(model(IMAGES).last_hidden_state, theirs.forward_features(IMAGES))
    # The other way round: CAE's own have 12, which config.json tells.
    arch = {**DEIT_TINY, 'num_heads': 12}
    model = randomized(CAEViT(arch, 32, 8))
    torch.save({f'backbone.{name}': value for name, value in model.state_dict().items()}, tmp_path / 'cae.pth')
    assert main(['export', str(tmp_path / 'cae.pth'), str(tmp_path / 'hf'), '--to', 'hf']) == 0
    assert '12 heads are assumed, as CAE has with 192 channels' in capsys.readouterr().out
    assert torch.equal(start(tmp_path / 'hf/model.safetensors', arch=arch)(IMAGES)[0], model(IMAGES)[0])


@pytest.mark.parametrize(
    ('arch', 'heads'),
    [
        (DEIT_TINY, 3),
        ('tiny', 12),
        (dict(DEIT_TINY, embed_dims=384), None),  # of another network
    ],
    ids=['dict', 'name', 'other'],
)
def test_number_of_heads_is_that_of_the_config_in_a_checkpoint(tmp_path, capsys, arch, heads):
    model = randomized(CAEViT(DEIT_TINY, 32, 8))
    state = {f'backbone.{name}': value for name, value in model.state_dict().items()}
    text = Config(dict(model=dict(backbone=dict(type='CAEViT', arch=arch), neck=dict(num_heads=5)))).pretty_text
    torch.save(dict(state_dict=state, meta=dict(cfg=text)), tmp_path / 'epoch_1.pth')
    assert main(['export', str(tmp_path / 'epoch_1.pth'), str(tmp_path / 'hf'), '--to', 'hf']) == 0
    assert ('heads are assumed' in capsys.readouterr().out) == (heads is None)
    found = transformers.BeitConfig.from_pretrained(tmp_path / 'hf').num_attention_heads
    assert found == (heads or 12)
    if heads == 3:
        with pytest.raises(ValueError, match='of a ViT with 3 heads, the model has 12'):
            start(tmp_path / 'epoch_1.pth', arch={**DEIT_TINY, 'num_heads': 12})


@pytest.mark.parametrize('text', ['', 'model = (', 'model = build()', "a.b = 1; model = dict(type='CAEv2')"], ids=str)
def test_configs_that_do_not_say_the_number_of_heads(text):
    assert heads_in_config(text, 192) is None


def test_a_file_may_stand_in_a_list(tmp_path):
    model = randomized(CAEViT(ARCH, 32, 8))
    torch.save({f'backbone.{name}': value for name, value in model.state_dict().items()}, tmp_path / 'ours.pth')
    entries = [dict(type='TruncNormal', layer='Conv2d'), dict(type='Pretrained', checkpoint=str(tmp_path / 'ours.pth'))]
    again = CAEViT(ARCH, 32, patch_size=8, init_cfg=entries)
    again.init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize(
    ('cls', 'kwargs', 'neck'),
    [
        (CAEViT, dict(out_type='cls_token'), dict(bn=nn.BatchNorm1d(48))),
        (CAEDenseViT, dict(out_indices=[2], pos_resize='rebuild'), {'0': ViTPyramid(48, norm_cfg=dict(type='BN'))}),
        (CAEViT, dict(bias=True), {}),
        (CAEViT, dict(bias=False), {}),
    ],
    ids=['linear probe', 'detector', 'bias of keys', 'no bias'],
)
@torch.no_grad()
def test_encoders_of_our_own_models(tmp_path, cls, kwargs, neck):
    encoder = cls(CAE_ARCH, 32, patch_size=8, **kwargs)
    for name, parameter in encoder.named_parameters():
        if 'pos_embed' not in name:
            nn.init.normal_(parameter, std=0.1)
    model = nn.ModuleDict(dict(backbone=encoder, neck=nn.ModuleDict(neck), head=nn.Linear(48, 5))).eval()
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'ours.pth')
    again = start(tmp_path / 'ours.pth', cls, CAE_ARCH, **kwargs)
    assert torch.equal(again(IMAGES)[0], encoder(IMAGES)[0])
    assert main(['export', str(tmp_path / 'ours.pth'), str(tmp_path / 'encoder.pth')]) == 0
    again = start(tmp_path / 'encoder.pth', cls, CAE_ARCH, **kwargs)
    assert torch.equal(again(IMAGES)[0], encoder(IMAGES)[0])


def test_a_norm_that_a_detector_does_not_have_is_missed(tmp_path):
    encoder = CAEDenseViT(CAE_ARCH, 32, patch_size=8, out_indices=[2], use_rel_pos_bias=False)
    torch.save({f'backbone.{name}': value for name, value in encoder.state_dict().items()}, tmp_path / 'det.pth')
    for cls, name in ((CAEViT, 'ln1'), (CAEFinetuneViT, 'ln2')):
        with pytest.raises(ValueError, match=f'lacks weights of the encoder: {name}.weight, {name}.bias'):
            start(tmp_path / 'det.pth', cls, CAE_ARCH)


@torch.no_grad()
def test_a_bias_of_the_keys_has_no_effect_in_timm(tmp_path):
    model = randomized(CAEViT(CAE_ARCH, 32, 8, bias=True))
    torch.save({f'backbone.{name}': value for name, value in model.state_dict().items()}, tmp_path / 'ours.pth')
    assert main(['export', str(tmp_path / 'ours.pth'), str(tmp_path / 'timm.pth'), '--to', 'timm']) == 0
    sizes = {**SIZES, 'embed_dim': 48, 'depth': 3, 'num_heads': 4}
    theirs = timm.create_model('vit_base_patch16_224', num_classes=0, init_values=0.1, **sizes).eval()
    theirs.load_state_dict(torch.load(tmp_path / 'timm.pth'))
    same(theirs.forward_features(IMAGES), model(IMAGES)[0])


def test_unknown_numbers_of_heads_and_absent_norms_are_told(tmp_path, capsys):
    for model, text in (
        (CAEViT(CAE_ARCH, 32, 8), 'no weight shows the number of heads of a model of 48 channels: add --num-heads'),
        (CAEViT(CAE_ARCH, 32, 8, final_norm=False), 'BEiT of transformers has a norm behind its layers'),
    ):
        torch.save({f'backbone.{name}': value for name, value in model.state_dict().items()}, tmp_path / 'ours.pth')
        assert main(['export', str(tmp_path / 'ours.pth'), str(tmp_path / 'hf'), '--to', 'hf']) == 1
        assert text in capsys.readouterr().err


def test_a_folder_for_transformers_stays_whole_when_writing_fails(tmp_path, monkeypatch):
    def full_disk(weights, path, metadata):
        path.write_bytes(b'half')
        raise OSError('no space left on device')

    state = {f'backbone.{name}': value for name, value in CAEViT(CAE_ARCH, 32, 8).state_dict().items()}
    write_folder(state, tmp_path, num_heads=4)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr('safetensors.torch.save_file', full_disk)
    with pytest.raises(OSError, match='no space left'):
        write_folder(state, tmp_path, num_heads=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.fixture
def classifier(tmp_path):
    """A fine-tuned model of ours and its file."""

    def build(**kwargs):
        backbone = {**dict(type='CAEFinetuneViT', arch=CAE_ARCH, img_size=(24, 40), patch_size=8), **kwargs}
        head = dict(type='LinearClsHead', num_classes=5, in_channels=48)
        with MODELS.switch_scope_and_registry('mmpretrain') as registry:
            model = registry.build(dict(type='ImageClassifier', backbone=backbone, head=head))
        for name, parameter in model.named_parameters():
            if 'pos_embed' not in name:
                nn.init.normal_(parameter, std=0.1)
        torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'ours.pth')
        return model.eval()

    return build


WIDE = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(1))
TIMM_SIZES = dict(img_size=(24, 40), patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=5, init_values=0.1)


def and_back(model, tmp_path, source):
    """Read a file or folder of others again; the logits must be equal bit by bit."""
    assert main(['convert', str(source), str(tmp_path / 'back.pth')]) == 0
    again = read_weights(tmp_path / 'back.pth')
    expected = {name: v for name, v in model.state_dict().items() if not name.endswith('relative_position_index')}
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], value) for name, value in expected.items())


@pytest.mark.parametrize('bias', [True, False], ids=['relative positions', 'none'])
@torch.no_grad()
def test_fine_tuned_to_timm_and_back(classifier, tmp_path, bias):
    model = classifier(use_rel_pos_bias=bias)
    assert main(['convert', str(tmp_path / 'ours.pth'), str(tmp_path / 'timm.pth'), '--to', 'timm']) == 0
    kinds = {True: ('beit_base_patch16_224', dict(use_abs_pos_emb=True)), False: ('vit_base_patch16_224', {})}
    name, kwargs = kinds[bias]
    kwargs = kwargs if bias else dict(global_pool='avg')
    theirs = timm.create_model(name, **TIMM_SIZES, **kwargs).eval()
    theirs.load_state_dict(torch.load(tmp_path / 'timm.pth'))
    same(model.head(model.backbone(WIDE)), theirs(WIDE))
    and_back(model, tmp_path, tmp_path / 'timm.pth')


@torch.no_grad()
def test_fine_tuned_to_the_authors_and_back(classifier, tmp_path):
    model = classifier()
    assert main(['convert', str(tmp_path / 'ours.pth'), str(tmp_path / 'theirs.pth'), '--to', 'authors']) == 0
    state = torch.load(tmp_path / 'theirs.pth')['model']
    expected = timm.create_model('beit_base_patch16_224', use_abs_pos_emb=True, **TIMM_SIZES).state_dict()
    assert state.keys() == expected.keys()  # their fine-tuning is BEiT's, as timm's is
    and_back(model, tmp_path, tmp_path / 'theirs.pth')


@pytest.mark.parametrize('bias', [True, False], ids=['relative positions', 'none'])
@torch.no_grad()
def test_fine_tuned_to_transformers_and_back(classifier, tmp_path, bias):
    model = classifier(use_rel_pos_bias=bias, img_size=32)
    options = ['--to', 'hf', '--num-heads', '4']
    assert main(['convert', str(tmp_path / 'ours.pth'), str(tmp_path / 'hf'), *options]) == 0
    theirs, found = transformers.BeitForImageClassification.from_pretrained(tmp_path / 'hf', output_loading_info=True)
    assert not found['missing_keys'] and not found['unexpected_keys']
    same(model.head(model.backbone(IMAGES)), theirs.eval()(IMAGES).logits)
    and_back(model, tmp_path, tmp_path / 'hf/model.safetensors')


@torch.no_grad()
def test_pretrained_to_transformers_and_back(tmp_path):
    model = CAEViT({**CAE_ARCH, 'feedforward_channels': 96}, 32, 8).eval()
    for name, parameter in model.named_parameters():
        if name != 'pos_embed':
            nn.init.normal_(parameter, std=0.1)
    state = {f'backbone.{name}': value for name, value in model.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'ours.pth')
    assert main(['export', str(tmp_path / 'ours.pth'), str(tmp_path / 'hf'), '--to', 'hf', '--num-heads', '4']) == 0
    theirs, found = transformers.BeitModel.from_pretrained(
        tmp_path / 'hf', add_pooling_layer=False, output_loading_info=True
    )
    assert not found['missing_keys'] and not found['unexpected_keys']
    same(model(IMAGES)[0], theirs.eval()(IMAGES).last_hidden_state)
    init_cfg = dict(num_heads=4)
    again = start(tmp_path / 'hf/model.safetensors', arch={**CAE_ARCH, 'feedforward_channels': 96}, init_cfg=init_cfg)
    assert torch.equal(again(IMAGES)[0], model(IMAGES)[0])


def test_transformers_takes_square_images(classifier, tmp_path, capsys):
    classifier()
    assert main(['convert', str(tmp_path / 'ours.pth'), str(tmp_path / 'hf'), '--to', 'hf']) == 1
    assert 'BEiT of transformers takes square images' in capsys.readouterr().err
