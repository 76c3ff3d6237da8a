"""Clean and robust accuracy over tasks, with confidence intervals.

R-MAML's code reports the mean over 100 tasks; intervals, and 600 tasks, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmpretrain.registry import METRICS
from torch import Tensor

from .intrinsic_dim import dimension_or_nan


@METRICS.register_module()
class FewShotRobustMetric(BaseMetric):
    """Mean over tasks of the accuracy on queries, clean and under every attack of the model.

    For each attack ``name``: ``name``, ``name_ci`` and ``name_of_correct``, the accuracy among queries that are right
    when clean. ``score`` is the mean of ``clean`` and the first attack; use it to keep the best checkpoint. Percent.
    Predictions with features give ``id_task`` and ``id_noise``, the mean dimension over tasks of ``(N * q, F)``
    features of clean queries and of what the attack adds.

    Args:
        estimator: Of the dimension, see ``intrinsic_dimension``.
        collect_device, prefix: Of mmengine's ``BaseMetric``.
    """

    default_prefix = 'few_shot'

    def __init__(self, estimator: str = 'pca90', collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.estimator = estimator

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the accuracies of each task."""
        for sample in data_samples:
            right = {name: (sample[name] == sample['labels']).cpu() for name in ('clean', *sample['attacks'])}
            result = {name: values.double().mean().item() * 100 for name, values in right.items()}
            for name in sample['attacks']:
                if right['clean'].any():
                    result[f'{name}_of_correct'] = right[name][right['clean']].double().mean().item() * 100
            for key, name in (('clean_features', 'id_task'), ('noise', 'id_noise')):
                if key in sample:
                    result[name] = dimension_or_nan(sample[key], self.estimator)
            self.results.append((tuple(sample['attacks']), result))

    def compute_metrics(self, results: list[tuple[tuple[str, ...], dict]]) -> dict[str, float]:
        """Average over tasks."""
        metrics: dict[str, float] = {}
        attacks = results[0][0]
        results = [result for _, result in results]
        for name in dict.fromkeys(key for result in results for key in result):
            values = torch.tensor([result[name] for result in results if name in result], dtype=torch.float64)
            metrics[name] = values.nanmean().item()
            if name == 'clean' or name in attacks:
                metrics[f'{name}_ci'] = confidence(values)
        metrics['score'] = (metrics['clean'] + metrics[attacks[0]]) / 2 if attacks else metrics['clean']
        metrics['tasks'] = float(len(results))
        return metrics


def confidence(values: Tensor) -> float:
    """Half the 95 % interval of a mean, ``1.96 * std / sqrt(tasks)`` of values ``(tasks,)``; 0 for one task."""
    return 1.96 * values.std().item() / math.sqrt(len(values)) if len(values) > 1 else 0.0
