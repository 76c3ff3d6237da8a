"""Line fitting with mmengine only: a model and a dataset that train in milliseconds."""

import random
import time

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset


@DATASETS.register_module()
class TinyLine(Dataset):
    """Sixteen points of a line in four dimensions; on request with noise of every generator, and slowly."""

    metainfo: dict = {}

    def __init__(self, noise: float = 0.0, delay: float = 0.0) -> None:
        self.noise, self.delay = noise, delay
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(16, 4, generator=generator)
        self.y = self.x @ torch.tensor([1.0, -2.0, 3.0, -4.0])

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict:
        time.sleep(self.delay)
        noise = self.noise * (random.random() + np.random.rand() + torch.rand(()).item()) if self.noise else 0.0
        return {'x': self.x[index] + noise, 'y': self.y[index]}


@MODELS.register_module()
class TinyRegressor(BaseModel):
    """One linear layer, mean squared error; on request with dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layer = nn.Linear(4, 1)

    def forward(self, x, y, mode='tensor'):
        out = self.layer(self.dropout(x)).squeeze(1)
        if mode == 'loss':
            return {'loss': (out - y).square().mean()}
        return [BaseDataElement(error=(o - t).abs()) for o, t in zip(out, y, strict=True)]


@METRICS.register_module()
class TinyError(BaseMetric):
    """Mean absolute error."""

    def process(self, data_batch, data_samples) -> None:
        self.results.extend(float(sample['error']) for sample in data_samples)

    def compute_metrics(self, results: list) -> dict:
        return {'error': sum(results) / len(results)}
