"""DS-Net written out: attention matrices explicit, names and layout of the public code."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of ``(B, h, N, d)``, with its matrix; returns ``(B, N, h d)``."""
    matrix = torch.einsum('bhqd,bhkd->bhqk', q, k).div(q.shape[-1] ** 0.5).softmax(-1)
    y = torch.einsum('bhqk,bhkd->bqhd', matrix, v)
    return y.reshape(*y.shape[:2], -1)


class LiteralBlock(nn.Module):
    """The block in the order of the paper's figure, for equal widths."""

    def __init__(self, channels: int, heads: int, ratio: int) -> None:
        super().__init__()
        half = channels // 2
        self.heads, self.half, self.ratio = heads, half, ratio
        self.pos_embed = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1, self.conv2 = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.norm_conv1, self.norm_conv2 = nn.BatchNorm2d(half), nn.BatchNorm2d(half)
        self.norm_sa1, self.norm_sa2 = nn.LayerNorm(half), nn.LayerNorm(half)
        self.conv = nn.Conv2d(half, half, 3, padding=1, groups=half)
        self.channel_up, self.cross_channel_up_sa = nn.Linear(half, 3 * half), nn.Linear(half, 3 * half)
        self.cross_channel_up_conv = nn.Conv2d(half, 3 * half, 1)
        self.fuse_channel_conv, self.fuse_channel_sa = nn.Linear(half, half), nn.Linear(half, half)
        self.mlp = nn.ModuleDict(
            dict(fc1=nn.Conv2d(channels, 4 * channels, 1), fc2=nn.Conv2d(4 * channels, channels, 1))
        )

    def heads_of(self, tokens: Tensor) -> list[Tensor]:
        """Queries, keys, values ``(B, h, N, d)`` of ``(B, N, 3 c)``."""
        return [
            torch.stack(part.chunk(self.heads, dim=-1), dim=1) for part in tokens.split(self.half, dim=-1)
        ]  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        size = x.shape[2:]
        small = [max(side // self.ratio, 1) for side in size]
        z = self.conv1(self.norm1(x))
        g, local = z[:, : self.half], z[:, self.half :]
        local = local + self.conv(self.norm_conv1(local))
        g = F.interpolate(g, size=small, mode='bilinear').reshape(len(x), self.half, -1).permute(0, 2, 1)
        g = g + explicit_attention(*self.heads_of(self.channel_up(self.norm_sa1(g))))
        maps = self.cross_channel_up_conv(self.norm_conv2(local))
        lq, lk, lv = self.heads_of(maps.reshape(len(x), 3 * self.half, -1).permute(0, 2, 1))
        gq, gk, gv = self.heads_of(self.cross_channel_up_sa(self.norm_sa2(g)))
        to_local = self.fuse_channel_conv(explicit_attention(lq, gk, gv))
        to_global = self.fuse_channel_sa(explicit_attention(gq, lk, lv))
        local = local + to_local.permute(0, 2, 1).reshape(local.shape)
        g = (g + to_global).permute(0, 2, 1).reshape(len(x), self.half, *small)
        g = F.interpolate(g, size=size, mode='bilinear')
        x = x + self.conv2(torch.cat([local, g], dim=1))
        return x + self.mlp['fc2'](F.gelu(self.mlp['fc1'](self.norm2(x))))


class LiteralNet(nn.Module):
    """Four stages and a linear head."""

    def __init__(self, embed_dims, depths, num_heads, global_ratios, classes: int) -> None:
        super().__init__()
        channels = 3
        for i, (dim, depth, heads, ratio) in enumerate(zip(embed_dims, depths, num_heads, global_ratios, strict=True)):
            patch_embed = nn.ModuleDict(dict(proj=nn.Conv2d(channels, dim, 2 if i else 4, stride=2 if i else 4)))
            self.add_module(f'patch_embed{i + 1}', patch_embed)
            self.add_module(f'blocks{i + 1}', nn.Sequential(*[LiteralBlock(dim, heads, ratio) for _ in range(depth)]))
            channels = dim
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, 5):
            x = getattr(self, f'blocks{i}')(getattr(self, f'patch_embed{i}')['proj'](x))
        return self.head(self.norm(x).mean((2, 3)))


@pytest.fixture(scope='session')
def attention() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the explicit attention."""
    return explicit_attention


@pytest.fixture(scope='session')
def shake() -> Callable[[nn.Module], nn.Module]:
    """Return a function that gives norms and zeros random values, so that nothing is hidden by a start of 0 or 1."""

    def shake(module: nn.Module) -> nn.Module:
        for child in module.modules():
            if isinstance(child, (nn.BatchNorm2d, nn.LayerNorm)):
                nn.init.uniform_(child.weight, 0.5, 1.5)
                nn.init.normal_(child.bias, std=0.2)
            if isinstance(child, nn.BatchNorm2d):
                child.running_mean.normal_(std=0.2)
                child.running_var.uniform_(0.5, 2)
        return module.eval()

    return shake


@pytest.fixture(scope='session')
def literal_net(shake) -> Callable[..., LiteralNet]:
    """Return a function that builds the literal network, with random statistics, in eval mode."""
    return lambda *args, **options: shake(LiteralNet(*args, **options))


@pytest.fixture(scope='session')
def silent() -> Callable[..., list[str]]:
    """Return a function that calls a module and gives the names of its leaves with parameters that were not called.

    Hooks, LoRA and quantization pass by a layer whose weights are used without calling it.
    """

    def silent(module: nn.Module, *inputs: object) -> list[str]:
        leaves = {
            name: child
            for name, child in module.named_modules()
            if not list(child.children()) and list(child.parameters())
        }
        called = set()
        for name, child in leaves.items():
            child.register_forward_hook(lambda *_, name=name: called.add(name))
        module(*inputs)
        return sorted(leaves.keys() - called)

    return silent
