"""Small teachers and masks for the tests of H-GKD."""

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

# Sizes of every teacher here: patches of 16 px, width 32, 2 blocks.
ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


@pytest.fixture(autouse=True)
def mmpretrain_scope():
    init_default_scope('mmpretrain')


@pytest.fixture
def make_vit():
    """Return a function that builds a small ViT of mmpretrain with random weights, in eval mode."""

    def make(type: str = 'MAEViT', img_size: int = 64, patch_size: int = 16, **kwargs) -> torch.nn.Module:
        torch.manual_seed(1)
        model = MODELS.build(dict(type=type, arch=dict(ARCH), img_size=img_size, patch_size=patch_size, **kwargs))
        model.init_weights()
        model.eval()
        return model

    return make


@pytest.fixture
def make_mae():
    """Return a function that builds a whole MAE: encoder as above, decoder of width 16 with 2 blocks."""

    def make(img_size: int = 64) -> torch.nn.Module:
        torch.manual_seed(1)
        decoder = dict(decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2)
        model = MODELS.build(
            dict(
                type='MAE',
                backbone=dict(type='MAEViT', arch=dict(ARCH), img_size=img_size, patch_size=16),
                neck=dict(type='MAEPretrainDecoder', num_patches=(img_size // 16) ** 2, embed_dim=32, **decoder),
                head=dict(
                    type='MAEPretrainHead', patch_size=16, loss=dict(type='PixelReconstructionLoss', criterion='L2')
                ),
            )
        )
        model.init_weights()
        torch.nn.init.normal_(model.neck.mask_token)
        model.eval()
        return model

    return make


@pytest.fixture
def make_active():
    """Return a function that draws a mask of cells with a fixed number of visible ones in each image."""

    def make(batch: int = 2, rows: int = 2, columns: int = 2, keep: int = 2, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(batch, rows * columns, generator=generator).argsort(dim=1)
        return (order < keep).view(batch, 1, rows, columns)

    return make
