import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from torch.utils.data import DataLoader

from mmplugins.its_maml import EpisodeSampler, EpisodicDataset
from mmplugins.its_maml.data.episodes import split_classes


@pytest.fixture
def make(omniglot):
    def make(part='val', **kwargs) -> EpisodicDataset:
        return EpisodicDataset(omniglot(part), **{**dict(ways=5, shots=2, queries=3, num_episodes=50), **kwargs})

    return make


def test_episode_has_ways_shots_and_queries(make):
    dataset = make()
    labels, support, query = dataset.positions(7)
    assert len(set(labels)) == 5 and support.shape == (5, 2) and query.shape == (5, 3)
    own = np.asarray(dataset.dataset.get_gt_labels())
    for row, label in enumerate(labels):
        assert (own[support[row]] == label).all() and (own[query[row]] == label).all()
    assert not set(support.ravel()) & set(query.ravel())
    assert len(set(support.ravel())) == 10 and len(set(query.ravel())) == 15

    episode = dataset[7]
    assert episode['support'].shape == (10, 1, 28, 28) and episode['query'].shape == (15, 1, 28, 28)
    assert episode['support_labels'].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert episode['query_labels'].bincount().tolist() == [3] * 5
    assert set(episode['support'].unique().tolist()) <= {0.0, 1.0}


def test_images_are_those_of_the_positions(make):
    dataset = make()
    _, support, _ = dataset.positions(3)
    expected = torch.stack([dataset.dataset[int(i)]['inputs'] for i in support.ravel()]).float() / 255
    assert torch.equal(dataset[3]['support'], expected)


def test_more_shots_change_neither_classes_nor_queries(make):
    few, many = make(shots=1), make(shots=5)
    for index in range(5):
        labels, support, query = few.positions(index)
        other_labels, other_support, other_query = many.positions(index)
        assert labels == other_labels
        assert (query == other_query).all()
        assert (other_support[:, :1] == support).all()
        assert few[index]['seed'] == many[index]['seed']


def test_parts_share_no_class(make):
    names = [{part.class_name(label) for label in part.classes} for part in map(make, ('train', 'val', 'test'))]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    assert all(name.startswith('val/') for name in names[1])


def test_same_key_same_episode_other_keys_other_episodes(make):
    dataset = make()

    def key(source, index):
        labels, support, query = source.positions(index)
        return labels, support.tolist(), query.tolist()

    assert key(dataset, 4) == key(make(), 4)
    assert key(dataset, 4) != key(dataset, 5)
    assert key(dataset, 4) != key(dataset, 54)  # the next epoch
    assert key(dataset, 4) != key(make(seed=1), 4)


@pytest.mark.slow
def test_number_of_workers_changes_nothing(make):
    batches = []
    for workers in (0, 2):
        loader = DataLoader(make(), batch_size=2, num_workers=workers, collate_fn=default_collate)
        batches.append([batch['query'] for _, batch in zip(range(3), loader, strict=False)])
    for one, two in zip(*batches, strict=True):
        assert torch.equal(one, two)


def test_cache_changes_nothing(make):
    cached = make(cache=True)
    assert torch.equal(cached[2]['support'], make()[2]['support'])
    assert torch.equal(cached[2]['query'], make()[2]['query'])


def test_classes_are_drawn_evenly(make):
    dataset = make(num_episodes=1000)
    counts = np.zeros(len(dataset.classes))
    for index in range(400):
        counts[[dataset.classes.index(label) for label in dataset.positions(index)[0]]] += 1
    expected = 400 * 5 / len(counts)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < len(counts) + 4 * np.sqrt(2 * len(counts))


def test_class_with_too_few_images_is_named(make):
    source = r'class val/\S+ of PackedDataset, \S+omniglot, part val'
    with pytest.raises(ValueError, match=source + r' has 20 images.*6 shots \+ 15 queries.*at most 5 shots'):
        make(shots=6, queries=15)
    with pytest.raises(ValueError, match='use fewer than 20 queries'):
        make(shots=1, queries=20)


def test_more_ways_than_classes_are_refused(make):
    with pytest.raises(ValueError, match=r'100 ways, but PackedDataset, \S+, part val has 94 classes: add classes or'):
        make(ways=100)
    with pytest.raises(ValueError, match='part test has 3 classes.*divides 30 classes or more'):
        make(class_split=dict(part='test', ratio=(0.8, 0.17, 0.03)))


@pytest.mark.parametrize('name', ['ways', 'shots', 'queries', 'num_episodes'])
def test_empty_episodes_are_refused(make, name):
    with pytest.raises(ValueError, match=f"'{name}': 0"):
        make(**{name: 0})


class Floats(EpisodicDataset):
    """Float images of a given range."""

    def __init__(self, low, high, shape=(1, 2, 2)):
        self._cache, self.low, self.high, self.shape = None, low, high, shape

    def _image(self, position):
        return torch.tensor([self.low, self.high]).view(1, 1, 2).expand(1, 2 + position * (self.shape[1] - 2), 2)


def test_images_outside_the_unit_range_are_refused():
    assert Floats(0.0, 1.0).images([0, 1]).max() == 1
    with pytest.raises(ValueError, match=r'must lie in \[0, 1\], got -2 to 2.1.*data_preprocessor'):
        Floats(-2.0, 2.1).images([0, 1])


def test_images_of_different_size_are_refused():
    with pytest.raises(ValueError, match='differ in size.*Resize'):
        Floats(0.0, 1.0, (1, 3, 2)).images([0, 1])


def test_split_of_classes():
    parts = [split_classes(range(100), part) for part in ('train', 'val', 'test')]
    assert [len(part) for part in parts] == [64, 16, 20]
    assert sorted(label for part in parts for label in part) == list(range(100))
    assert parts[0] != list(range(64)) and split_classes(range(100), 'train', seed=1) != parts[0]
    with pytest.raises(ValueError, match="part='dev'"):
        split_classes(range(10), 'dev')


def test_of_thirty_classes_each_part_has_five():
    for number in range(30, 200):
        assert min(len(split_classes(range(number), part)) for part in ('train', 'val', 'test')) >= 5, number


def test_split_in_a_dataset(make):
    train, test = (make('train', class_split=dict(part=part)) for part in ('train', 'test'))
    assert len(train.classes) == 340 and len(test.classes) == 106
    assert not set(train.classes) & set(test.classes)
    assert set(test.positions(0)[0]) <= set(test.classes)


def test_sampler_never_ends_and_divides_among_ranks(make, monkeypatch):
    dataset = make()
    sampler = EpisodeSampler(dataset)
    assert [index for _, index in zip(range(60), sampler, strict=False)] == list(range(60))
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (1, 3))
    second = EpisodeSampler(dataset)
    assert [index for _, index in zip(range(4), second, strict=False)] == [1, 4, 7, 10]
