"""A picture of one episode: support, queries, what the attack changes, attacked queries, predictions."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmpretrain.registry import DATASETS
from torch import Tensor

from mmplugins.utils.atomic import replacing

from ..robust_maml import RobustMAML
from .loading import load_model


def draw_episode(model: RobustMAML, item: dict, path: Path, names: list[str], queries: int = 3) -> None:
    """Draw an item of an ``EpisodicDataset`` to a PNG file.

    Rows are ways. Columns: support; then ``queries`` times the query, ten times its change and the attacked query, with
    the predicted way above, green if right.

    Args:
        model: With at least one test attack.
        item: Images ``(P, C, H, W)`` and labels.
        path: Of the picture.
        names: Of the ways.
        queries: Queries that are drawn of each way.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    if not model.test_attacks:
        raise ValueError('the model has no test_attacks to show')
    batch = default_collate([item])
    name, attack = next(iter(model.test_attacks.items()))
    part = dict(batch, seed=torch.as_tensor(batch['seed']))
    weights = model.adapt_for_test(part)
    attacked = model.attacked(attack, weights, part['query'], part['query_labels'], part)
    with torch.no_grad():
        clean = model.learner.run(weights, part['query']).argmax(-1)[0]
        fooled = model.learner.run(weights, attacked).argmax(-1)[0]
    query, attacked, labels = part['query'][0], attacked[0], part['query_labels'][0]
    shots = int((item['support_labels'] == 0).sum())
    columns = shots + 3 * queries
    figure, panels = pyplot.subplots(
        len(names), columns, figsize=(1.1 * columns, 1.35 * len(names)), layout='constrained', squeeze=False
    )
    for way in range(len(names)):
        row = panels[way]
        for shot, image in enumerate(item['support'][item['support_labels'] == way]):
            show(row[shot], image, 'support')
        row[0].set_ylabel(names[way][-18:], fontsize=7)
        for number, place in enumerate(torch.nonzero(labels == way).flatten()[:queries].tolist()):
            three = row[shots + 3 * number :]
            show(three[0], query[place], f'→ {clean[place]}', bool(clean[place] == way))
            show(three[1], ((attacked[place] - query[place]) * 10 / 2 + 0.5).clamp(0, 1), 'change x 10')
            show(three[2], attacked[place], f'{name} → {fooled[place]}', bool(fooled[place] == way))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80)
    pyplot.close(figure)


def show(panel, image: Tensor, title: str, right: bool | None = None) -> None:
    """Draw ``(C, H, W)`` in [0, 1]; BGR as the host reads it."""
    array = image.cpu().numpy().transpose(1, 2, 0)
    array = array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array[..., ::-1])
    panel.imshow(array, cmap='gray', vmin=0, vmax=1)
    panel.set_title(title, fontsize=7, color={None: 'black', True: 'green', False: 'red'}[right], pad=2)
    panel.set(xticks=[], yticks=[])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``view``."""
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--episode', type=int, default=0, help='index of the test episode')
    parser.add_argument('--queries', type=int, default=3, help='queries that are drawn of each way')
    parser.add_argument('--out', type=Path, default=Path('episode.png'))


def run(args: argparse.Namespace) -> None:
    """Load, adapt, attack, draw."""
    model, cfg = load_model(args.checkpoint, args.config)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    names = [dataset.class_name(label) for label in dataset.positions(args.episode)[0]]
    draw_episode(model, dataset[args.episode], args.out, names, args.queries)
    print(f'written to {args.out}')
