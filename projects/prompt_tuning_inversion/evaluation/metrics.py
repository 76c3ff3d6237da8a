"""What is judged in a test run: each edit of a sample, by what needs no weights.

Metrics take data samples with pictures ``(3, H, W)`` in [-1, 1]. Where a sample has a mask of what the edit may change,
nearness to the image is that of the rest. Values that need a network are in :mod:`.networks`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor

from ..pairs.sample import EditDataSample
from ..pictures import as_saved
from .nearness import mse, psnr, ssim


class PictureMetric(BaseMetric):
    """Judges the reconstruction and each edit of a sample, and gives the mean over samples.

    A picture is judged as its file would be, in 256 steps. Values that are not numbers, as where a mask covers all, are
    left out of the mean.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """First part of the keys."""

    @abstractmethod
    def judge(self, picture: Tensor, sample: dict) -> float | None:
        """Value of one picture ``(3, H, W)``; None where the metric is not available."""

    def process(self, data_batch: dict | None, data_samples: Sequence[EditDataSample]) -> None:
        """Judge the pictures of a batch."""
        for sample in data_samples:
            pictures = dict(recon=sample['recon'])
            pictures.update({f'eta{eta:g}': edit for eta, edit in zip(sample['etas'], sample['edits'], strict=True)})
            values = {name: self.judge(as_saved(picture), sample) for name, picture in pictures.items()}
            self.results.append({name: value for name, value in values.items() if value is not None})

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Mean over samples, for the reconstruction and each strength."""
        found = {}
        for name in dict.fromkeys(name for result in results for name in result):
            values = torch.tensor([result[name] for result in results if name in result], dtype=torch.double)
            found[f'{self.name}/{name}'] = values[~values.isnan()].mean().item()
        return found


@METRICS.register_module()
class EditPSNR(PictureMetric):
    """PSNR to the image in dB, outside the mask if there is one, of pictures ``(3, H, W)`` in [-1, 1]."""

    name = 'psnr'

    def judge(self, picture: Tensor, sample: dict) -> float:
        """Value of one picture ``(3, H, W)``."""
        return psnr(picture, sample['source'], sample.get('mask'))


@METRICS.register_module()
class EditMSE(PictureMetric):
    """Mean squared error to the image, outside the mask if there is one, of pictures ``(3, H, W)`` in [-1, 1]."""

    name = 'mse'

    def judge(self, picture: Tensor, sample: dict) -> float:
        """Value of one picture ``(3, H, W)``."""
        return mse(picture, sample['source'], sample.get('mask'))


@METRICS.register_module()
class EditSSIM(PictureMetric):
    """Structural similarity to the image, outside the mask if there is one, of pictures ``(3, H, W)`` in [-1, 1]."""

    name = 'ssim'

    def judge(self, picture: Tensor, sample: dict) -> float:
        """Value of one picture ``(3, H, W)``."""
        return ssim(picture, sample['source'], sample.get('mask'))
