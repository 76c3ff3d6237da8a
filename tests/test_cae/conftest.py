"""An independent, plain torch version of CAE and CAE v2, with the names of the authors' checkpoints.

It follows the papers' description and the authors' layout of weights and shares nothing with the plugin or a host.
Token order is raster order inside the visible and inside the masked patches; masks are (B, N), True is masked.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sincos_table(rows: int, columns: int, dim: int) -> Tensor:
    """Position table (1, 1 + rows * columns, dim), written out one number at a time."""
    quarter = dim // 4
    table = [[0.0] * dim]
    for row in range(rows):
        for column in range(columns):
            rates = [10000 ** -(i / quarter) for i in range(quarter)]
            vector = []
            for place in (row, column):
                vector += [math.sin(place * rate) for rate in rates]
                vector += [math.cos(place * rate) for rate in rates]
            table.append(vector)
    return torch.tensor(table)[None]


def norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=1e-6)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(attend(q + self.q_bias, k, v + self.v_bias, self.heads))


class CrossAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.proj(attend(self.q(q) + self.q_bias, self.k(k), self.v(v) + self.v_bias, self.heads))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm(dim), SelfAttention(dim, heads), norm(dim), Mlp(dim)
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.full((dim,), 0.1)), nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma_1 * self.attn(self.norm1(x))
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class RegressorBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1_q, self.norm1_k, self.norm1_v, self.norm2_cross = (norm(dim) for _ in range(4))
        self.cross_attn, self.mlp_cross = CrossAttention(dim, heads), Mlp(dim)
        self.gamma_1_cross = nn.Parameter(torch.full((dim,), 0.1))
        self.gamma_2_cross = nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, queries: Tensor, visible: Tensor, pos_masked: Tensor, pos_visible: Tensor) -> Tensor:
        union = torch.cat([visible, queries], 1)
        keys = self.norm1_k(union + torch.cat([pos_visible, pos_masked], 1))
        found = self.cross_attn(self.norm1_q(queries + pos_masked), keys, self.norm1_v(union))
        y = self.norm2_cross(queries + self.gamma_1_cross * found)
        return y + self.gamma_2_cross * self.mlp_cross(y)


class Encoder(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, grid: tuple[int, int], patch: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(sincos_table(*grid, dim), requires_grad=False)
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, dim, patch, patch)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = norm(dim)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """(B, 3, H, W), (B, N) -> (B, 1 + V, D)."""
        tokens = self.patch_embed.proj(images).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        tokens = torch.stack([one[~hidden] for one, hidden in zip(tokens, mask, strict=True)])
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x := tokens), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class AuthorsCAE(nn.Module):
    """CAE (``version=1``, 8192 tokens or ``outputs``) or CAE v2 with the parameter names of Atten4Vis/CAE.

    ``forward`` returns a namespace: ``visible`` (B, 1 + V, D); v1: ``latent``, ``target`` (B, M, R), ``logits``
    (B, M, outputs); v2: ``predicted`` (B, 1 + V + M, outputs), of unit length.
    """

    def __init__(
        self, version=1, dim=48, depth=3, heads=4, width=None, regressor_heads=4, regressor_depth=2, decoder_depth=2,
        grid=(4, 4), patch=8, outputs=20,
    ) -> None:  # fmt: skip
        super().__init__()
        self.version, width = version, width or dim
        self.encoder = Encoder(dim, depth, heads, grid, patch)
        self.alignment_encoder = Encoder(dim, depth, heads, grid, patch) if version == 1 else None
        self.encoder_to_regresser = nn.Linear(dim, width) if width != dim else None
        if width != dim:
            self.encoder_to_regresser_norm = norm(width)
        self.rd_pos_embed = nn.Parameter(sincos_table(*grid, width), requires_grad=False)
        self.regresser = nn.Module()
        self.regresser.regressor_blocks = nn.ModuleList(
            RegressorBlock(width, regressor_heads) for _ in range(regressor_depth)
        )
        self.regresser.norm = norm(width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder = nn.Module()
        if version == 1:
            self.decoder.decoder_blocks = nn.ModuleList(Block(width, regressor_heads) for _ in range(decoder_depth))
        self.decoder.norm, self.decoder.head = norm(width), nn.Linear(width, outputs)
        if version == 1:
            self.alignment_encoder.load_state_dict(self.encoder.state_dict())
            self.alignment_encoder.requires_grad_(False)

    def randomize(self, seed: int = 0) -> 'AuthorsCAE':
        """Give every parameter but the position tables a value of its own, so that no mix-up can hide."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if 'pos_embed' not in name:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
            if self.alignment_encoder is not None:
                self.alignment_encoder.load_state_dict(self.encoder.state_dict())
        return self

    def project(self, x: Tensor) -> Tensor:
        return x if self.encoder_to_regresser is None else self.encoder_to_regresser_norm(self.encoder_to_regresser(x))

    def forward(self, images: Tensor, mask: Tensor) -> SimpleNamespace:
        visible = self.encoder(images, mask)
        projected = self.project(visible)
        pos = self.rd_pos_embed[0, 1:]
        masked_pos = torch.stack([pos[hidden] for hidden in mask])
        visible_pos = torch.stack([pos[~hidden] for hidden in mask])
        queries = self.mask_token.expand(*masked_pos.shape[:2], -1)
        for block in self.regresser.regressor_blocks:
            queries = block(queries, projected[:, 1:], masked_pos, visible_pos)
        if self.version == 2:
            out = self.decoder.head(self.decoder.norm(torch.cat([projected, queries], 1)))
            return SimpleNamespace(visible=visible, predicted=out / out.norm(dim=-1, keepdim=True))
        latent = self.regresser.norm(queries)
        x = latent + masked_pos
        for block in self.decoder.decoder_blocks:
            x = block(x)
        with torch.no_grad():
            target = self.project(self.alignment_encoder(images, ~mask)[:, 1:])
        logits = self.decoder.head(self.decoder.norm(x))
        return SimpleNamespace(visible=visible, latent=latent, target=target, logits=logits)


@pytest.fixture(scope='session')
def authors_cae() -> type[AuthorsCAE]:
    """Return the class of the plain reference model."""
    return AuthorsCAE


@pytest.fixture(scope='session')
def reference_sincos():
    """Return the formula of the position table: rows, columns, dim -> (1, 1 + rows * columns, dim)."""
    return sincos_table


@pytest.fixture
def draw_mask():
    """Return a function that draws a mask (B, N) with exactly ``masked`` True a row."""

    def draw(batch: int, patches: int, masked: int) -> Tensor:
        ranks = torch.rand(batch, patches).argsort(1).argsort(1)
        return ranks < masked

    return draw


@pytest.fixture
def small_model():
    """Return a function that builds and initializes a model of the plugin for images of 24 x 40 pixels, patch 8.

    ``version`` is 1 (target: pixels) or 2 (target: gradients); ``backbone``, ``neck``, ``head`` are changes to their
    arguments, all others go to the model. 15 patches in a grid of 3 x 5, D = 48.
    """
    from mmpretrain.registry import MODELS

    import mmplugins.cae  # noqa: F401

    def build(version: int = 1, *, backbone=(), neck=(), head=(), target_generator=None, **kwargs) -> nn.Module:
        arch = dict(embed_dims=48, num_layers=3, num_heads=4, feedforward_channels=96)
        own = dict(num_classes=192, decoder_depth=2) if version == 1 else dict(num_classes=108, decoder_depth=0)
        parts = dict(
            backbone=dict(type='CAEViT', arch=arch, img_size=(24, 40), patch_size=8, **dict(backbone)),
            neck={
                **dict(type='CAERegressorNeck', in_channels=48, embed_dims=48, num_heads=4, regressor_depth=2),
                **dict(grid_size=(3, 5), **own),
                **dict(neck),
            },
            head=dict(type=f'CAEv{version}Head', **dict(head)),
            target_generator=target_generator
            or (
                dict(type='PixelTarget', patch_size=8) if version == 1 else dict(type='HOGTarget', patch_size=8, pool=4)
            ),
        )
        with MODELS.switch_scope_and_registry('mmpretrain') as registry:
            model = registry.build(dict(type=f'CAEv{version}', **parts, **kwargs))
        model.init_weights()
        return model

    return build


@pytest.fixture
def small_batch(draw_mask):
    """Return a function that makes images (B, 3, 24, 40) in [0, 1] and data samples with ``masked`` places masked."""
    from mmpretrain.structures import DataSample

    def make(batch: int = 2, masked: int = 7) -> tuple[Tensor, list]:
        samples = [DataSample().set_mask(mask.unflatten(0, (3, 5))) for mask in draw_mask(batch, 15, masked)]
        return torch.rand(batch, 3, 24, 40), samples

    return make
