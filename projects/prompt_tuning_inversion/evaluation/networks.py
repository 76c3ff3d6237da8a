"""Metrics that need the weights of a network; without them a metric says so once and is left out.

The formulas, and what they take of a picture, are those of PIE-Bench's own evaluation (arXiv 2310.01506). Pictures are
``(3, H, W)`` in [-1, 1]; a mask is true where the edit may change the image.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.registry import METRICS
from torch import Tensor
from torchvision.transforms.functional import normalize, resize

from ..extras import require
from .metrics import PictureMetric
from .nearness import unit

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class NetworkMetric(PictureMetric):
    """A metric with a network that may not be at hand.

    Args:
        device: Of the network, such as ``'cuda'``, where the model that edits leaves room; default: the CPU.
        **kwargs: Of mmengine's ``BaseMetric``.
    """

    title = ''

    def __init__(self, device: str = 'cpu', **kwargs) -> None:
        super().__init__(**kwargs)
        self.device = device
        self.model: torch.nn.Module | None = None

    def leave_out(self, reason: str) -> None:
        """Say why there will be no value."""
        print_log(f'{self.title} is not available offline: {reason}', 'current', logging.WARNING)

    @torch.no_grad()
    def judge(self, picture: Tensor, sample: dict) -> float | None:
        """Value of one picture ``(3, H, W)``; None without a network, nan where the mask leaves nothing."""
        return None if self.model is None else self.measure(picture, sample)

    def measure(self, picture: Tensor, sample: dict) -> float:
        """Value of one picture ``(3, H, W)`` by the network."""
        raise NotImplementedError


@METRICS.register_module()
class EditLPIPS(NetworkMetric):
    """LPIPS distance to the image, outside the mask if there is one; smaller is nearer. Needs the package lpips.

    Args:
        net: Backbone, ``'alex'``, ``'vgg'`` or ``'squeeze'`` (PIE-Bench's).
        backbone: State dict of torchvision's backbone, a file; lpips itself would download it.
        **kwargs: ``device``, and those of mmengine's ``BaseMetric``.
    """

    name, title = 'lpips', 'LPIPS'

    def __init__(self, net: str = 'squeeze', backbone: str | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        if backbone is None or not Path(backbone).is_file():
            self.leave_out(f"no file of {net}'s weights (backbone={backbone!r})")
            return
        try:
            lpips = require('lpips', 'pip install lpips==0.1.4')
        except ImportError as error:
            self.leave_out(str(error))
            return
        self.model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval().to(self.device)
        weights = torch.load(backbone, map_location='cpu', weights_only=True)
        # lpips cuts torchvision's `features` into slices, but keeps the numbers of the layers.
        named = {key: weights[f'features.{key.split(".", 1)[1]}'] for key in self.model.net.state_dict()}
        self.model.net.load_state_dict(named)

    def measure(self, picture: Tensor, sample: dict) -> float:
        """Value of one picture ``(3, H, W)``."""
        mask = sample.get('mask')
        if mask is not None and mask.all():
            return torch.nan
        pictures = (unit(one, mask)[None].float().to(self.device) * 2 - 1 for one in (picture, sample['source']))
        return self.model(*pictures).item()


@METRICS.register_module()
class EditCLIPScore(NetworkMetric):
    """Cosine of the CLIP embeddings of picture ``(3, H, W)`` and prompt, times 100, at least 0. Needs a CLIP folder.

    Args:
        pretrained: A folder of transformers' ``CLIPModel``; PIE-Bench takes ViT-L/14.
        edited_part: Of the part that the mask lets change, the rest black; samples without a mask have no value.
        **kwargs: ``device``, and those of mmengine's ``BaseMetric``.
    """

    title = 'CLIP score'

    def __init__(self, pretrained: str | None = None, edited_part: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.edited_part = edited_part
        if pretrained is None or not Path(pretrained).is_dir():
            self.leave_out(f'no folder of a CLIP model (pretrained={pretrained!r})')
            return
        transformers = require('transformers')
        model = transformers.CLIPModel.from_pretrained(pretrained, local_files_only=True)
        self.model = model.eval().to(self.device)
        self.processor = transformers.CLIPProcessor.from_pretrained(pretrained, local_files_only=True)

    @property
    def name(self) -> str:
        """First part of the keys."""
        return 'clip_edited' if self.edited_part else 'clip'

    def measure(self, picture: Tensor, sample: dict) -> float:
        """Value of one picture ``(3, H, W)``."""
        mask = sample.get('mask')
        if self.edited_part and (mask is None or not mask.any()):
            return torch.nan
        pixels = (unit(picture, ~mask if self.edited_part else None) * 255).round().byte()
        options = dict(return_tensors='pt', padding=True, truncation=True)
        inputs = self.processor(text=[sample['prompt']], images=pixels, **options).to(self.device)
        output = self.model(**inputs)
        return max(0.0, 100 * F.cosine_similarity(output.text_embeds, output.image_embeds).item())


@METRICS.register_module()
class EditStructureDistance(NetworkMetric):
    """How far the layout of a picture ``(3, H, W)`` is from that of the image (arXiv 2201.00424): smaller is nearer.

    Mean squared difference of the cosines between the keys of all places in the last layer of DINO's ViT. The benchmark
    feeds the network values up to 255 where it expects 1; so do we, as numbers are compared with published ones.

    Args:
        pretrained: A folder of transformers' ``ViTModel``; PIE-Bench takes DINO's ViT-B/8.
        **kwargs: ``device``, and those of mmengine's ``BaseMetric``.
    """

    name, title = 'structure_distance', 'Structure distance'

    def __init__(self, pretrained: str | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        if pretrained is None or not Path(pretrained).is_dir():
            self.leave_out(f"no folder of DINO's ViT (pretrained={pretrained!r})")
            return
        vit = require('transformers').ViTModel.from_pretrained(
            pretrained, local_files_only=True, add_pooling_layer=False
        )
        self.model = vit.eval().to(self.device)
        self.source = self.layout = None

    def cosines(self, picture: Tensor) -> Tensor:
        """Cosine of the keys of each two tokens of a picture ``(3, H, W)`` in [-1, 1]: ``(N, N)``."""
        keys: list[Tensor] = []
        layer = self.model.encoder.layer[-1].attention.attention.key
        handle = layer.register_forward_hook(lambda module, inputs, output: keys.append(output[0]))
        try:
            pixels = normalize(resize((unit(picture) * 255).float(), 224, max_size=480, antialias=True), *IMAGENET)
            self.model(pixels[None].to(self.device), interpolate_pos_encoding=True)
        finally:
            handle.remove()
        normed = F.normalize(keys[0], dim=-1)
        return normed @ normed.T

    def measure(self, picture: Tensor, sample: dict) -> float:
        """Value of one picture ``(3, H, W)``."""
        if self.source is not sample['source']:  # the pictures of an image follow each other
            self.source, self.layout = sample['source'], self.cosines(sample['source'])
        return F.mse_loss(self.cosines(picture), self.layout).item()
