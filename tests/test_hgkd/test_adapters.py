"""Every mode of every teacher against the host's own forward pass."""

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models.utils.clip_generator_helper import CLIP
from mmpretrain.registry import MODELS

from mmplugins.hgkd.masks import expand_active
from mmplugins.hgkd.teachers.provider import TeacherProvider

IMAGES = (2, 3, 64, 64)


def tokens_to_map(tokens, rows=4, columns=4):
    return tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns)


def normalized(features):
    return F.layer_norm(features.movedim(1, -1), features.shape[1:2], eps=1e-6).movedim(-1, 1)


@pytest.fixture
def host_masked():
    """Return a function that runs the host's MAE encoder on chosen patches (its own masking, with our mask)."""

    def run(vit, images, visible):
        def masking(x, mask_ratio):
            order = (~visible).int().argsort(dim=1, stable=True)
            kept = order[:, : int(visible[0].sum())]
            chosen = torch.gather(x, 1, kept.unsqueeze(-1).expand(-1, -1, x.shape[2]))
            return chosen, (~visible).float(), order.argsort(dim=1)

        vit.random_masking = masking
        try:
            return vit(images, mask=True)
        finally:
            del vit.random_masking

    return run


class TestFull:
    @pytest.mark.parametrize(
        ('kind', 'options'),
        [
            pytest.param('MAEViT', {}, id='mae'),
            pytest.param('CAEPretrainViT', dict(layer_scale_init_value=0.1), id='cae'),
            pytest.param('BEiTPretrainViT', dict(layer_scale_init_value=0.1), id='beit pretraining'),
            pytest.param('BEiTViT', dict(out_type='raw'), id='beit'),
            pytest.param('VisionTransformer', dict(out_type='raw', layer_scale_init_value=1e-1), id='dinov2'),
            pytest.param(
                'VisionTransformer',
                dict(out_type='raw', pre_norm=True, layer_cfgs=dict(act_cfg=dict(type='QuickGELU'))),
                id='clip',
            ),
            pytest.param('VisionTransformer', dict(out_type='featmap', with_cls_token=False), id='no class token'),
        ],
    )
    def test_is_the_last_block_of_the_host(self, make_vit, kind, options, make_active):
        # Without the final norm the host returns what its last block gives.
        vit = make_vit(kind, final_norm=False, **options)
        images = torch.randn(IMAGES)
        with torch.no_grad():
            out = vit(images, mask=None)[-1] if hasattr(vit, 'mask_ratio') or 'Pretrain' in kind else vit(images)[-1]
        expected = out if out.dim() == 4 else tokens_to_map(out[:, 1:])
        target = TeacherProvider(vit, ['layers.1'])(images, make_active())
        torch.testing.assert_close(target, normalized(expected), rtol=0, atol=1e-6)

    def test_not_square(self, make_vit, make_active):
        vit = make_vit('VisionTransformer', out_type='featmap', final_norm=False)
        images = torch.randn(2, 3, 64, 96)
        target = TeacherProvider(vit, ['layers.1'], target_norm='none')(images, make_active(2, 2, 3))
        assert target.shape == (2, 32, 4, 6)
        torch.testing.assert_close(target, vit(images)[-1])

    @pytest.mark.parametrize(('row', 'column'), [(0, 5), (3, 0), (2, 4)])
    def test_a_lit_patch_shows_at_its_token(self, make_vit, row, column, make_active):
        """Rows and columns are not swapped, nor is an extra token left in front."""
        provider = TeacherProvider(make_vit(), ['layers.1'], target_norm='none')
        dark = torch.zeros(1, 3, 64, 96)
        lit = dark.clone()
        lit[..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 3
        active = make_active(1, 2, 3)
        change = (provider(lit, active) - provider(dark, active)).norm(dim=1)
        assert change.shape == (1, 4, 6)
        assert divmod(int(change.argmax()), 6) == (row, column)

    def test_timm_with_registers(self, make_active):
        timm = pytest.importorskip('timm')
        vit = timm.models.vision_transformer.VisionTransformer(
            img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2, reg_tokens=4
        ).eval()
        images = torch.randn(IMAGES)
        target = TeacherProvider(vit, ['blocks.1', 'norm'], target_norm='none')(images, make_active())
        assert target.shape == (2, 64, 4, 4)
        torch.testing.assert_close(target[:, 32:], tokens_to_map(vit.forward_features(images)[:, 5:]))

    def test_feature_map_of_a_cnn(self, make_active):
        resnet = MODELS.build(dict(type='ResNet', depth=18, out_indices=(2,)))
        images = torch.randn(IMAGES)
        target = TeacherProvider(resnet, ['layer3'], target_norm='none')(images, make_active())
        torch.testing.assert_close(target, resnet(images)[0])

    def test_clip_generator(self, tmp_path, make_active):
        # OpenAI's layout: width 64 = one head, 2 vision blocks of patches of 16 px on 64 px.
        clip = CLIP(16, 64, 2, 64, 16, 4, 10, 64, 1, 1)
        torch.save(clip.state_dict(), tmp_path / 'clip.pth')
        generator = MODELS.build(dict(type='CLIPGenerator', tokenizer_path=str(tmp_path / 'clip.pth')))
        images = torch.randn(IMAGES)
        provider = TeacherProvider(
            generator,
            ['tokenizer.visual.transformer.resblocks.1', 'tokenizer.visual.ln_post'],
            target_norm='none',
        )
        target = provider(images, make_active())
        with torch.no_grad():
            last = generator.tokenizer.visual.ln_post(target[:, :64].movedim(1, -1)).movedim(-1, 1)
            whole = generator(images)[0]
        torch.testing.assert_close(target[:, 64:], last)  # (L, B, C) of the block is turned to (B, L, C)
        torch.testing.assert_close(
            tokens_to_map(whole[:, 1:]),
            (target[:, 64:].movedim(1, -1) @ generator.tokenizer.visual.proj).movedim(-1, 1),
        )


class TestSameMask:
    def test_mae_is_the_hosts_masked_pass(self, make_mae, make_active, host_masked):
        mae = make_mae()
        images, active = torch.randn(IMAGES), make_active()
        visible = expand_active(active, (4, 4)).flatten(1)
        provider = TeacherProvider(mae, ['neck.decoder_blocks.1'], mode='same_mask', target_norm='none')
        target = provider(images, active)
        with torch.no_grad():
            latent, _, restore = host_masked(mae.backbone, images, visible)
            expected = []
            handle = mae.neck.decoder_blocks[1].register_forward_hook(lambda m, i, o: expected.append(o))
            mae.neck(latent, restore)
            handle.remove()
        torch.testing.assert_close(target, tokens_to_map(expected[0][:, 1:]), rtol=1e-4, atol=1e-5)

    def test_cae_is_the_hosts_masked_pass(self, make_vit, make_active):
        vit = make_vit('CAEPretrainViT', layer_scale_init_value=0.1)
        neck = MODELS.build(
            dict(
                type='CAENeck', num_classes=8, embed_dims=32, regressor_depth=1, decoder_depth=1, num_heads=2,
                mask_tokens_num=3, layer_scale_init_value=0.1,
            )
        )  # fmt: skip
        neck.init_weights()
        cae = torch.nn.ModuleDict(dict(backbone=vit, neck=neck)).eval()
        images, active = torch.randn(IMAGES), make_active(keep=1)
        visible = expand_active(active, (4, 4)).flatten(1)
        provider = TeacherProvider(cae, ['backbone.ln1', 'neck.norm_regressor'], mode='same_mask', target_norm='none')
        target = provider(images, active).flatten(2).transpose(1, 2)
        with torch.no_grad():
            latent = vit(images, ~visible)[:, 1:]
            positions = vit.pos_embed[:, 1:].expand(2, -1, -1)
            neck.mask_token_num = 12
            _, inferred = neck(latent, positions[~visible].view(2, 12, 32), positions[visible].view(2, 4, 32))
        torch.testing.assert_close(target[visible].view(2, 4, 32), latent, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(target[~visible].view(2, 12, 32), inferred, rtol=1e-4, atol=1e-5)

    def test_beit_is_the_hosts_masked_pass(self, make_vit, make_active):
        vit = make_vit('BEiTPretrainViT', final_norm=False)
        images, active = torch.randn(IMAGES), make_active()
        provider = TeacherProvider(vit, ['layers.1'], mode='same_mask', target_norm='none')
        with torch.no_grad():
            expected = vit(images, ~expand_active(active, (4, 4)))[-1]
        torch.testing.assert_close(provider(images, active), tokens_to_map(expected[:, 1:]))


class TestVisible:
    def test_mae_is_the_hosts_masked_encoder(self, make_vit, make_active, host_masked):
        vit = make_vit()
        images, active = torch.randn(IMAGES), make_active()
        visible = expand_active(active, (4, 4)).flatten(1)
        target = TeacherProvider(vit, ['ln1'], mode='visible', target_norm='none')(images, active)
        with torch.no_grad():
            latent = host_masked(vit, images, visible)[0][:, 1:]
        target = target.flatten(2).transpose(1, 2)
        torch.testing.assert_close(target[visible].view_as(latent), latent, rtol=1e-4, atol=1e-5)
        assert not target[~visible].any()

    @pytest.mark.parametrize('kind', ['VisionTransformer', 'CAEPretrainViT'])
    def test_hidden_pixels_do_not_matter(self, make_vit, kind, make_active):
        options = dict(out_type='featmap') if kind == 'VisionTransformer' else dict(layer_scale_init_value=0.1)
        provider = TeacherProvider(make_vit(kind, **options), ['layers.1'], mode='visible')
        images, active = torch.randn(IMAGES), make_active()
        hidden = ~expand_active(active, (64, 64)).unsqueeze(1)
        other = torch.where(hidden, 9 * torch.randn(IMAGES), images)
        assert torch.equal(provider(images, active), provider(other, active))

    def test_timm(self, make_active):
        timm = pytest.importorskip('timm')
        vit = timm.models.vision_transformer.VisionTransformer(img_size=64, embed_dim=32, depth=2, num_heads=2).eval()
        target = TeacherProvider(vit, ['blocks.1'], mode='visible')(torch.randn(IMAGES), make_active())
        assert target.shape == (2, 32, 4, 4)


class TestMask:
    def test_full_does_not_depend_on_it(self, make_mae, make_active):
        provider = TeacherProvider(make_mae(), ['backbone.layers.1'])
        images = torch.randn(IMAGES)
        assert torch.equal(provider(images, make_active(seed=0)), provider(images, make_active(seed=1)))

    def test_same_mask_does(self, make_mae, make_active):
        provider = TeacherProvider(make_mae(), ['neck.decoder_blocks.1'], mode='same_mask')
        images = torch.randn(IMAGES)
        first, second = make_active(seed=0), make_active(seed=1)
        assert not torch.equal(first, second)
        assert (provider(images, first) - provider(images, second)).abs().max() > 0.1


@pytest.mark.parametrize(
    ('kind', 'options', 'mode', 'text'),
    [
        ('MAEViT', {}, 'same_mask', 'decoder'),
        ('VisionTransformer', {}, 'same_mask', 'VisionTransformer cannot be run'),
        ('BEiTViT', {}, 'same_mask', 'mask tokens'),
        ('BEiTViT', {}, 'visible', 'relative position bias'),
        ('BEiTPretrainViT', {}, 'visible', 'relative position bias'),
        ('MAEViT', {}, 'half', 'mode must be one of'),
    ],
)
def test_impossible_modes(make_vit, kind, options, mode, text):
    with pytest.raises(ValueError, match=text):
        TeacherProvider(make_vit(kind, **options), ['layers.1'], mode=mode)


def test_network_without_an_entry():
    with pytest.raises(ValueError, match='drop_after_pos'):
        TeacherProvider(MODELS.build(dict(type='ResNet', depth=18)), ['layer3'], mode='visible')


def test_different_numbers_of_visible_patches(make_vit):
    provider = TeacherProvider(make_vit(), ['layers.1'], mode='visible')
    active = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]).bool().view(2, 1, 2, 2)
    with pytest.raises(ValueError, match=r'same number of visible patches.*\[4, 8\]'):
        provider(torch.randn(IMAGES), active)


def test_tap_of_the_encoder_in_same_mask(make_mae, make_active):
    provider = TeacherProvider(make_mae(), ['backbone.layers.1'], mode='same_mask')
    with pytest.raises(ValueError, match="'backbone.layers.1' gives 9 tokens; expected 16"):
        provider(torch.randn(IMAGES), make_active())
