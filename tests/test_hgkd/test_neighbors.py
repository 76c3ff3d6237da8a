"""The accuracy of nearest neighbours in the log: that of sklearn, and the run goes as without it."""

import json

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import nn
from torch.utils.data import Dataset

from mmplugins.hgkd import NearestNeighborHook
from mmplugins.hgkd.neighbors import top1


@pytest.mark.parametrize('neighbors', [1, 5, 200])
def test_accuracy_is_that_of_sklearn(neighbors):
    sklearn = pytest.importorskip('sklearn.neighbors')
    generator = torch.Generator().manual_seed(0)
    labels, truth = (torch.randint(0, 4, (count,), generator=generator) for count in (200, 300))
    centers = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    bank, queries = (
        nn.functional.normalize(centers[which] + torch.randn(len(which), 6, generator=generator, dtype=torch.float64))
        for which in (labels, truth)
    )
    judge = sklearn.KNeighborsClassifier(neighbors, metric='cosine', algorithm='brute').fit(bank, labels)
    found = top1(bank, labels, queries, truth, neighbors)
    assert found == pytest.approx(100 * judge.score(queries, truth)) and found < 100


def test_fewer_images_than_neighbors():
    bank = torch.eye(2)
    assert top1(bank[:1], torch.tensor([1]), bank, torch.tensor([1, 0]), 20) == 50


class Stripes(Dataset):
    """Images ``(3, 8, 8)`` that are brightest in the channel of their class, and noise."""

    def __init__(self, count: int):
        generator = torch.Generator().manual_seed(count)
        self.labels = torch.arange(count) % 3
        self.images = torch.randn(count, 3, 8, 8, generator=generator)
        self.images[torch.arange(count), self.labels] += 3

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return dict(inputs=self.images[index], data_samples=DataSample().set_gt_label(int(self.labels[index])))


class Blurred(BaseModel):
    """Features of a convolution and a norm, trained to be large."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5))
        nn.init.eye_(self.net[0].weight.data[:, :, 0, 0])

    def extract_feat(self, inputs):
        return (self.net(inputs),)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=-self.extract_feat(inputs)[0].square().mean())


@pytest.fixture
def train(tmp_path):
    """Return a function that trains three epochs and returns the runner."""

    def go(name: str, *hooks) -> Runner:
        torch.manual_seed(0)
        runner = Runner(
            Blurred(),
            work_dir=str(tmp_path / name),
            experiment_name=f'{tmp_path.name}_{name}',
            train_dataloader=loader(12),
            train_cfg=dict(by_epoch=True, max_epochs=3),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            custom_hooks=[*hooks],
            visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
            randomness=dict(seed=0),
            default_hooks=dict(checkpoint=None),
        )
        runner.train()
        return runner

    return go


def loader(count: int) -> dict:
    return dict(
        batch_size=5,
        dataset=Stripes(count),
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )


def test_it_logs_and_changes_nothing(train, tmp_path):
    """In each second epoch and the last; weights, statistics and drawn numbers are those of a run without it."""
    hook = NearestNeighborHook(loader(33), loader(18), neighbors=5, interval=2)
    watched, plain = train('watched', hook), train('plain')
    torch.testing.assert_close(watched.model.state_dict(), plain.model.state_dict(), rtol=0, atol=0)
    assert watched.model.training
    scalars = next((tmp_path / 'watched').rglob('scalars.json')).read_text().splitlines()
    found = {row['step']: row['knn/top1'] for row in map(json.loads, scalars) if 'knn/top1' in row}
    assert [*found] == [2, 3] and min(found.values()) > 90
