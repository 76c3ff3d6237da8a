"""How well nearest neighbours in the student's features tell classes: its progress, in the log of a run without labels.

Not in the paper (arXiv 2309.09571): all of it. A k-nearest-neighbour classifier has nothing to train and nothing to
choose but ``k``, so it is what self-supervised trainings are watched by.

Shapes: ``N`` images with known classes, ``M`` others, ``C`` channels of the student's last map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.dist import collect_results
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor
from torch.utils.data import DataLoader

from mmplugins.utils.wrappers import model_of

from .student import evaluating


@HOOKS.register_module()
class NearestNeighborHook(Hook):
    """Logs the accuracy of nearest neighbours after epochs of training.

    Features are the last that ``extract_feat`` of the model gives, averaged over positions; near is a high cosine, and
    the class is that of the majority of neighbours. Labels are used here only. The run's random numbers, weights and
    statistics stay what they are without the hook. It sees the model, not the averages of an ``EMAHook``.

    Args:
        bank: Data loader of images with known classes, in a config as ``val_dataloader``.
        queries: Data loader of the images that are classified.
        neighbors: How many decide. Default 20.
        interval: Epochs between two looks; the last epoch has one as well. Default 1.
    """

    priority = 'LOW'  # after the hooks that change the model

    def __init__(self, bank: dict, queries: dict, neighbors: int = 20, interval: int = 1) -> None:
        self.configs = (bank, queries)
        self.neighbors = neighbors
        self.interval = interval

    def before_train(self, runner: Runner) -> None:
        """Build the data, so that what is missing is said before the first step."""
        self.loaders = [runner.build_dataloader(cfg, seed=runner.seed) for cfg in self.configs]

    def after_train_epoch(self, runner: Runner) -> None:
        """Classify, and log ``knn/top1`` in percent."""
        if not (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            return
        model = model_of(runner)
        bank, queries = (features(model, loader) for loader in self.loaders)
        if runner.rank == 0:
            accuracy = top1(*bank, *queries, self.neighbors)
            runner.logger.info(f'Epoch(train) [{runner.epoch + 1}]    knn/top1: {accuracy:.2f}')
            runner.visualizer.add_scalar('knn/top1', accuracy, step=runner.epoch + 1)


def features(model: torch.nn.Module, loader: DataLoader) -> tuple[Tensor, Tensor] | None:
    """Return features of unit length ``(N, C)`` and labels ``(N,)`` of all images, on the CPU; None if not rank 0."""
    found = []
    # A data loader draws its seed when it starts.
    with evaluating(model), torch.random.fork_rng(devices=[]):
        for batch in loader:
            data = model.data_preprocessor(batch, False)
            last = model.extract_feat(data['inputs'])
            last = last[-1] if isinstance(last, (list, tuple)) else last
            rows = F.normalize(last.float().reshape(*last.shape[:2], -1).mean(dim=2))
            found += zip(rows.cpu(), [sample.gt_label.cpu() for sample in data['data_samples']], strict=True)
    found = collect_results(found, len(loader.dataset))
    if found is None:
        return None
    rows, labels = zip(*found, strict=True)
    return torch.stack(rows), torch.cat(labels)


def top1(bank: Tensor, labels: Tensor, queries: Tensor, truth: Tensor, neighbors: int) -> float:
    """Return the share in percent of queries whose neighbours are mostly of their class; of equals, the first class.

    Args:
        bank: ``(N, C)``, of unit length.
        labels: ``(N,)``.
        queries: ``(M, C)``, of unit length.
        truth: ``(M,)``.
        neighbors: How many decide, at most ``N``.
    """
    right = 0
    for part, wanted in zip(queries.split(256), truth.split(256), strict=True):
        nearest = (part @ bank.T).topk(min(neighbors, len(bank)), dim=1).indices
        votes = F.one_hot(labels[nearest], int(labels.max()) + 1).sum(dim=1)
        right += (votes.argmax(dim=1) == wanted).sum().item()
    return 100 * right / len(queries)
