"""How near the layer is to exact attention, on features of real images from convolutions with random weights."""

from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.workloads.images import load_folder
from mmplugins.spsa import saliency, spsa_agg, spsa_gate

HEADS = 4
EXACT = ('softmax over correlations', 'softmax over dot products / sqrt(d)')
AGG, GATE, SIGMOID, TOKEN, MEAN = 'agg', 'gate, 1 + rho', 'gate, sigmoid', 'the token itself', 'mean token'


def features(images: Tensor, seed: int) -> Tensor:
    """Standardized maps ``(n, 64, H / 4, W / 4)`` of images ``(n, 3, H, W)``: three convolutions, random weights."""
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1)
    ).double()  # fmt: skip
    with torch.no_grad():
        x = layers(images.double())
    return (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)


def split(x: Tensor) -> Tensor:
    """Tokens ``(n, h, N, d)`` of a map ``(n, C, H, W)``."""
    return x.unflatten(1, (HEADS, -1)).flatten(3).transpose(2, 3)


def exact(x: Tensor) -> dict[str, Tensor]:
    """Both kinds of exact attention matrices ``(n, h, N, N)``, without projections."""
    tokens = split(x)
    p = tokens - tokens.mean(-1, keepdim=True)
    p = p / p.norm(dim=-1, keepdim=True)
    logits = (p @ p.transpose(2, 3), tokens @ tokens.transpose(2, 3) * tokens.shape[-1] ** -0.5)
    return {name: matrix.softmax(-1) for name, matrix in zip(EXACT, logits, strict=True)}


def ranks_agree(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation over the last axis."""
    a, b = (t.argsort(-1).argsort(-1).double() for t in (a, b))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def measure(data: Path, size: int, limit: int, seed: int) -> dict:
    """Return relative errors, cosines and rank correlations.

    Args:
        data: Folder ``<class>/*``.
        size: Side of the images in pixels.
        limit: Images a class.
        seed: Of the weights of the convolutions.

    Returns:
        By kind of exact attention: ``error`` and ``cosine`` of each approximation, ``rank``: mean over images and
        heads of the rank correlation of the saliency with the attention that a token receives.
    """
    x = features(load_folder(data, size, limit)[0], seed)
    found = {
        AGG: spsa_agg(x, HEADS),
        GATE: spsa_gate(x, HEADS),
        SIGMOID: spsa_gate(x, HEADS, 'sigmoid'),
        TOKEN: x,
        MEAN: x.mean((2, 3), keepdim=True).expand_as(x),
    }
    rho = saliency(x, HEADS).flatten(2)
    result = {}
    for kind, attention in exact(x).items():
        output = attention @ split(x)
        error, cosine = {}, {}
        for name, y in found.items():
            y = split(y)
            error[name] = ((y - output).norm() / output.norm()).item()
            cosine[name] = nn.functional.cosine_similarity(y, output, dim=-1).mean().item()
        rank = ranks_agree(rho, attention.mean(2))
        result[kind] = dict(error=error, cosine=cosine, rank=rank.mean().item())
    return result


def maps(data: Path, size: int) -> list[tuple[Tensor, Tensor, list[Tensor]]]:
    """For the figure, of one image of each of four classes.

    Returns:
        Image ``(3, S, S)``, saliency ``(H, W)``, and column means ``(H, W)`` of both exact matrices, of the first head.
    """
    images = load_folder(data, size, limit=1)[0][:4]
    x = features(images, seed=0)
    rho = saliency(x, HEADS)[:, 0, 0]
    columns = [attention.mean(2)[:, 0].unflatten(1, x.shape[2:]) for attention in exact(x).values()]
    return [(image, rho[i], [column[i] for column in columns]) for i, image in enumerate(images)]
