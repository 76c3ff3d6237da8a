"""How near a picture is to the image, and how near to the prompt.

Metrics take data samples with pictures ``(3, H, W)`` in [-1, 1]. Where a sample has a mask, nearness to the image is
that of the part outside it. A metric whose weights are not on this machine says so and is left out.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS
from torch import Tensor

from ..extras import require
from ..pairs.sample import EditDataSample


def psnr(picture: Tensor, image: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of ``(3, H, W)`` in [-1, 1]; at most 100, nan where the mask leaves nothing.

    Args:
        picture: What is judged.
        image: What it should be.
        mask: ``(H, W)``, true where pixels do not count.
    """
    errors = (picture.double() - image.double()).square().mean(0) / 4  # of pictures in [0, 1]
    if mask is not None:
        errors = errors[~mask]
    error = errors.mean().clamp(min=1e-10)
    return (-10 * error.log10()).item()


def ssim(picture: Tensor, image: Tensor, mask: Tensor | None = None) -> float:
    """Structural similarity (Wang et al. 2004) of ``(3, H, W)`` in [-1, 1], mean over channels and places.

    Gaussian window of 11 pixels and sigma 1.5, or the largest odd window that the picture holds.

    Args:
        picture: What is judged.
        image: What it should be.
        mask: ``(H, W)``, true where places do not count.
    """
    x, y = ((value.double()[:, None] + 1) / 2 for value in (picture, image))
    width = min(11, *(side - (side + 1) % 2 for side in x.shape[2:]))
    place = torch.arange(width, dtype=torch.double) - width // 2
    line = torch.exp(-place.square() / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]
    mean_x, mean_y = F.conv2d(x, window), F.conv2d(y, window)
    var_x, var_y = F.conv2d(x * x, window) - mean_x**2, F.conv2d(y * y, window) - mean_y**2
    cov = F.conv2d(x * y, window) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    found = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    found = found.mean((0, 1))
    if mask is not None:
        cut = width // 2
        found = found[~mask[cut : mask.shape[0] - cut, cut : mask.shape[1] - cut]]
    return found.mean().item()


class PictureMetric(BaseMetric):
    """Judges the reconstruction and each edit of a sample, and gives the mean over samples.

    Values that are not numbers, as where a mask covers all, are left out of the mean.
    """

    def judge(self, picture: Tensor, sample: EditDataSample) -> float | None:
        """Value of one picture ``(3, H, W)``; None where the metric is not available."""
        raise NotImplementedError

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Judge the pictures of a batch."""
        for sample in data_samples:
            pictures = dict(recon=sample['recon'])
            pictures.update({f'eta{eta:g}': edit for eta, edit in zip(sample['etas'], sample['edits'], strict=True)})
            values = {name: self.judge(picture, sample) for name, picture in pictures.items()}
            self.results.append({name: value for name, value in values.items() if value is not None})

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Mean over samples, for the reconstruction and each strength."""
        found = {}
        for name in dict.fromkeys(name for result in results for name in result):
            values = torch.tensor([result[name] for result in results if name in result], dtype=torch.double)
            found[f'{self.name}/{name}'] = values[~values.isnan()].mean().item()
        return found

    @property
    @abstractmethod
    def name(self) -> str:
        """First part of the keys."""


@METRICS.register_module()
class EditPSNR(PictureMetric):
    """PSNR to the image in dB, outside the mask if there is one."""

    name = 'psnr'

    def judge(self, picture: Tensor, sample: dict) -> float:
        """Value of one picture ``(3, H, W)``."""
        return psnr(picture, sample['source'], sample.get('mask'))


@METRICS.register_module()
class EditSSIM(PictureMetric):
    """Structural similarity to the image, outside the mask if there is one."""

    name = 'ssim'

    def judge(self, picture: Tensor, sample: dict) -> float:
        """Value of one picture ``(3, H, W)``."""
        return ssim(picture, sample['source'], sample.get('mask'))


@METRICS.register_module()
class EditLPIPS(PictureMetric):
    """LPIPS distance to the image; smaller is nearer. Needs the package lpips and its backbone's weights.

    Args:
        net: Backbone, ``'alex'``, ``'vgg'`` or ``'squeeze'`` (PIE-Bench's).
        backbone: State dict of torchvision's backbone, a file; lpips itself would download it.
        **kwargs: Of mmengine's ``BaseMetric``.
    """

    name = 'lpips'

    def __init__(self, net: str = 'squeeze', backbone: str | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.net, self.backbone = net, backbone
        self.model = None
        self.reason = self._load()
        if self.reason:
            print_log(f'LPIPS is not available offline: {self.reason}', 'current', logging.WARNING)

    def _load(self) -> str | None:
        """Build the network; the reason if that cannot be."""
        if self.backbone is None or not Path(self.backbone).is_file():
            return f"no file of {self.net}'s weights (backbone={self.backbone!r})"
        try:
            lpips = require('lpips', 'pip install lpips==0.1.4')
        except ImportError as error:
            return str(error)
        self.model = lpips.LPIPS(net=self.net, pnet_rand=True, verbose=False).eval()
        weights = torch.load(self.backbone, map_location='cpu', weights_only=True)
        own = self.model.net.state_dict()
        # lpips cuts torchvision's `features` into slices, but keeps the numbers of the layers.
        named = {key: weights[f'features.{key.split(".", 1)[1]}'] for key in own}
        self.model.net.load_state_dict(named)
        return None

    @torch.no_grad()
    def judge(self, picture: Tensor, sample: dict) -> float | None:
        """Value of one picture ``(3, H, W)``."""
        return None if self.model is None else self.model(picture[None], sample['source'][None]).item()


@METRICS.register_module()
class EditCLIPScore(PictureMetric):
    """Cosine of the CLIP embeddings of picture and prompt, times 100. Needs a CLIP folder.

    Args:
        pretrained: A folder of transformers' ``CLIPModel``; PIE-Bench takes ViT-L/14.
        **kwargs: Of mmengine's ``BaseMetric``.
    """

    name = 'clip'

    def __init__(self, pretrained: str | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.model = None
        if pretrained is None or not Path(pretrained).is_dir():
            text = f'CLIP score is not available offline: no folder of a CLIP model (pretrained={pretrained!r})'
            print_log(text, 'current', logging.WARNING)
            return
        transformers = require('transformers')
        self.model = transformers.CLIPModel.from_pretrained(pretrained, local_files_only=True).eval()
        self.processor = transformers.CLIPProcessor.from_pretrained(pretrained, local_files_only=True)

    @torch.no_grad()
    def judge(self, picture: Tensor, sample: dict) -> float | None:
        """Value of one picture ``(3, H, W)``."""
        if self.model is None:
            return None
        inputs = self.processor(
            text=[sample['prompt']],
            images=((picture + 1) / 2).clamp(0, 1),
            do_rescale=False,
            return_tensors='pt',
            padding=True,
            truncation=True,
        )
        output = self.model(**inputs)
        return 100 * F.cosine_similarity(output.text_embeds, output.image_embeds).item()
