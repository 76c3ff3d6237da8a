"""Any teacher: one line of a config against the library's own class, with random weights."""

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn
from torch.nn import functional as F

from mmplugins.cae.targets.frozen import CLIPVisionTarget, FrozenFeatureTarget
from mmplugins.utils.encoders import features_of

timm = pytest.importorskip('timm')
transformers = pytest.importorskip('transformers')
TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
HF = dict(
    clip=('CLIPVisionModelWithProjection', 'CLIPVisionConfig', dict(intermediate_size=64, projection_dim=20)),
    whole_clip=('CLIPModel', 'CLIPConfig', dict(intermediate_size=64, projection_dim=20)),
    siglip=('SiglipVisionModel', 'SiglipVisionConfig', dict(intermediate_size=64)),
    dinov2=('Dinov2Model', 'Dinov2Config', {}),
    registers=('Dinov2WithRegistersModel', 'Dinov2WithRegistersConfig', dict(num_register_tokens=3)),
    dinov3=('DINOv3ViTModel', 'DINOv3ViTConfig', dict(num_register_tokens=4, intermediate_size=64)),
    vit=('ViTModel', 'ViTConfig', dict(intermediate_size=64)),
)


@pytest.fixture
def quiet(monkeypatch):
    """Initializing a model writes a line for each weight."""
    monkeypatch.setattr('mmengine.model.base_module.print_log', lambda *args, **kwargs: None)


def check(target, images, patches, cls_token=None):
    """Compare a target with patches (B, N, C) and class token (B, C); without one it is the mean."""
    target = target.train()
    found = target(images)
    cls_token = patches.mean(1) if cls_token is None else cls_token
    torch.testing.assert_close(found, torch.cat([cls_token[:, None], patches], 1), atol=2e-5, rtol=1e-4)
    assert not found.requires_grad and not any(module.training for module in target.modules())


@pytest.mark.parametrize('name', HF)
def test_transformers(tmp_path, name):
    model, config, changes = HF[name]
    if name == 'whole_clip':
        text = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50)
        text.update(bos_token_id=0, eos_token_id=1)
        cfg = transformers.CLIPConfig(text, {**TINY, **changes}, projection_dim=20)
    else:
        cfg = getattr(transformers, config)(**TINY, **changes)
    torch.manual_seed(0)
    model = getattr(transformers, model)(cfg).eval()
    model.save_pretrained(tmp_path)  # config.json and model.safetensors, as on the hub
    target = FrozenFeatureTarget(dict(type='HuggingFaceBackbone', source=str(tmp_path)))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        if 'clip' in name:
            hidden = model.vision_model(images)
            tokens = model.visual_projection(model.vision_model.post_layernorm(hidden.last_hidden_state))
            cls_token = model.visual_projection(hidden.pooler_output)
        else:
            tokens = model(images).last_hidden_state
            cls_token = None if name == 'siglip' else tokens[:, 0]
    check(target, images, tokens[:, -16:], cls_token)
    assert target.published
    fresh = FrozenFeatureTarget(dict(type='HuggingFaceBackbone', source=str(tmp_path), pretrained=False))
    assert not fresh.published and fresh(images).shape == target(images).shape


def test_transformers_at_another_size(tmp_path):
    transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**TINY, projection_dim=20)
    ).save_pretrained(tmp_path)
    target = FrozenFeatureTarget(dict(type='HuggingFaceBackbone', source=str(tmp_path)), grid_size=(3, 6))
    assert target(torch.randn(1, 3, 24, 48)).shape == (1, 19, 20)


def test_transformers_with_a_hole(tmp_path):
    from safetensors.torch import load_file, save_file

    transformers.Dinov2Model(transformers.Dinov2Config(**TINY)).save_pretrained(tmp_path)
    state = load_file(tmp_path / 'model.safetensors')
    del state['layernorm.weight']
    save_file(state, tmp_path / 'model.safetensors', metadata=dict(format='pt'))
    with pytest.raises(ValueError, match=r"lacks 1 weights of Dinov2Model, as \['layernorm.weight'\]"):
        FrozenFeatureTarget(dict(type='HuggingFaceBackbone', source=str(tmp_path)))


TIMM = dict(
    vit=('vit_tiny_patch16_224', dict(img_size=64, depth=2), 1),
    registers=('vit_small_patch14_reg4_dinov2', dict(img_size=56, depth=1), 5),
    eva=('eva02_tiny_patch14_224', dict(img_size=56, depth=2), 1),
    siglip=('vit_base_patch16_siglip_224', dict(img_size=64, depth=1, embed_dim=48, num_heads=2), 0),
    convnext=('convnext_atto', dict(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)), 0),
    swin=('swin_tiny_patch4_window7_224', dict(img_size=64, depths=(1, 1, 1, 1), embed_dim=16, window_size=2), 0),
)


@pytest.mark.parametrize('name', TIMM)
def test_timm(quiet, tmp_path, name):
    from safetensors.torch import save_file

    model_name, changes, extra = TIMM[name]
    torch.manual_seed(0)
    model = timm.create_model(model_name, num_classes=0, **changes).eval()
    save_file(model.state_dict(), tmp_path / 'model.safetensors')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'model.safetensors'))
    backbone = dict(type='TIMMBackbone', model_name=model_name, **changes)
    target = FrozenFeatureTarget(backbone, init_cfg=init_cfg)
    target.init_weights()
    images = torch.randn(2, 3, changes.get('img_size', 64), changes.get('img_size', 64))
    with torch.no_grad():
        tokens = model.forward_features(images)
        if name == 'convnext':  # its last normalization stands in the head; channels are first
            tokens = model.head.norm(tokens).flatten(2).transpose(1, 2)
        elif name == 'swin':
            assert tokens.shape == (2, 2, 2, 128)  # channels are last
            tokens = tokens.flatten(1, 2)
        elif name == 'eva':  # pools before its last normalization
            tokens = model.fc_norm(tokens)
    check(target, images, tokens[:, extra:], tokens[:, 0] if extra else None)
    assert target.published and not FrozenFeatureTarget(backbone).published


def test_mmpretrain_vit_and_swin(quiet):
    images = torch.randn(2, 3, 64, 64)
    arch = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64)
    vit = dict(type='mmpretrain.VisionTransformer', arch=arch, img_size=64, patch_size=8, out_type='raw')
    arch = dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])
    swin = dict(type='mmpretrain.SwinTransformer', arch=arch, img_size=64, window_size=2)
    for cfg in (vit, swin):
        target = FrozenFeatureTarget(MODELS.build(cfg))
        with torch.no_grad():
            out = target.backbone.eval() or target.backbone(images)[-1]
        if cfg is vit:
            check(target, images, out[:, 1:], out[:, 0])
        else:
            check(target, images, out.flatten(2).transpose(1, 2))


class ChannelsLast(nn.Module):
    def forward(self, x):
        return torch.zeros(len(x), 7, 7, 768)


def test_channels_last_without_a_word():
    with pytest.raises(ValueError, match='ChannelsLast makes .* if its channels are last, say so'):
        features_of(ChannelsLast(), torch.zeros(1, 3, 224, 224))
    network = ChannelsLast()
    network.output_fmt = 'NHWC'
    assert features_of(network, torch.zeros(1, 3, 224, 224)).patches.shape == (1, 768, 7, 7)


CLIP = dict(input_resolution=32, patch_size=8, width=64, layers=2, heads=2, output_dim=20)


def openai_names(model):
    """Weights of timm's CLIP tower with the names of OpenAI and open_clip, by hand."""
    state, found = model.state_dict(), {}
    found['class_embedding'], found['positional_embedding'] = state['cls_token'][0, 0], state['pos_embed'][0]
    found['conv1.weight'], found['proj'] = state['patch_embed.proj.weight'], state['head.weight'].T
    for theirs, ours in (('ln_pre', 'norm_pre'), ('ln_post', 'norm')):
        found.update({f'{theirs}.{kind}': state[f'{ours}.{kind}'] for kind in ('weight', 'bias')})
    pairs = [('ln_1.', 'norm1.'), ('ln_2.', 'norm2.'), ('attn.in_proj_', 'attn.qkv.'), ('attn.out_proj.', 'attn.proj.')]
    pairs += [('mlp.c_fc.', 'mlp.fc1.'), ('mlp.c_proj.', 'mlp.fc2.')]
    for i in range(len(model.blocks)):
        for theirs, ours in pairs:
            for kind in ('weight', 'bias'):
                found[f'transformer.resblocks.{i}.{theirs}{kind}'] = state[f'blocks.{i}.{ours}{kind}']
    return {f'visual.{name}': value.contiguous() for name, value in found.items()}


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
@pytest.mark.parametrize('activation', ['gelu', 'quick_gelu'])
def test_clip_and_open_clip(tmp_path, activation, suffix):
    from safetensors.torch import save_file

    name = 'vit_base_patch16_clip_quickgelu_224' if activation == 'quick_gelu' else 'vit_base_patch16_clip_224'
    sizes = dict(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=20)
    torch.manual_seed(0)
    model = timm.create_model(name, **sizes).eval()
    nn.init.zeros_(model.head.bias)  # CLIP's projection has none
    nn.init.normal_(model.head.weight)
    path = tmp_path / f'open_clip.{suffix}'
    (save_file if suffix == 'safetensors' else torch.save)(openai_names(model), path)
    kwargs = dict(arch=CLIP, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    target = CLIPVisionTarget(activation=activation, **kwargs)
    target.init_weights()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = model.head(model.forward_features(images))
    check(target, images, tokens[:, 1:], tokens[:, 0])
    with pytest.raises(ValueError, match="does not say its activation: set activation='gelu'"):
        CLIPVisionTarget(**kwargs).init_weights()


@pytest.mark.parametrize('quick', [False, True])
def test_open_clips_own_class(tmp_path, quick):
    open_clip = pytest.importorskip('open_clip')
    vision = dict(image_size=32, patch_size=8, width=64, layers=2, head_width=32)
    text = dict(context_length=4, vocab_size=10, width=16, heads=2, layers=1)
    model = open_clip.model.CLIP(20, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text), quick).eval()
    torch.save(model.state_dict(), tmp_path / 'open_clip.pt')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'open_clip.pt'))
    target = CLIPVisionTarget(CLIP, activation='quick_gelu' if quick else 'gelu', init_cfg=init_cfg)
    target.init_weights()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = F.normalize(target(images)[:, 0], dim=-1)
        torch.testing.assert_close(found, model.encode_image(images, normalize=True), atol=2e-5, rtol=1e-4)
