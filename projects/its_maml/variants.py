"""Other few-shot learners on the same episodes, with the same attacks and losses: ANIL, ProtoNet, Baseline++.

Shapes as in ``episodic.py``. Each says only how a task learns; ``reg_weight`` and ``attack`` make it robust,
``shots`` of the data above those of the test make it ITS.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmpretrain.models import LinearClsHead
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from .episodic import Episode
from .learner import Weights, adapt, task_cross_entropy
from .robust_maml import RobustMAML


@MODELS.register_module()
class CosineClsHead(LinearClsHead):
    """Logits are scaled cosines of the features and the weights of a class (Baseline++; Chen et al., ICLR 2019).

    Args:
        scale: Of the cosines. Its code has 2 up to 200 classes and 10 beyond, times a norm that each class learns; ours
            is 10 and no norm.
        **kwargs: Of mmpretrain's ``LinearClsHead``: ``num_classes``, ``in_channels``.
    """

    def __init__(self, scale: float = 10.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.fc = nn.Linear(self.in_channels, self.num_classes, bias=False)
        self.scale = scale

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return logits ``(B, N)`` of features ``(B, F)``, the last of the tuple."""
        return self.scale * F.linear(F.normalize(self.pre_logits(feats)), F.normalize(self.fc.weight))


class HeadLearner(RobustMAML):
    """What learners have in common that keep the features of a task and make its head.

    Args:
        **kwargs: Of ``RobustMAML``.

    Raises:
        ValueError: The head is not a ``LinearClsHead``; ``checkpoint_steps``: no step has a graph of the network; or a
            ``support_attack`` where the head of the meta-parameters does not predict the ways of the support.
    """

    head_knows_ways = True  # what `support_attack` needs, and `crossed` with it

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        head = self.learner.classifier.head
        if not isinstance(head, LinearClsHead):
            raise ValueError(f'{type(self).__name__} needs a LinearClsHead, got {type(head).__name__}')
        if self.checkpoint_steps:
            raise ValueError(f'{type(self).__name__} runs the network once a task: checkpoint_steps saves nothing')
        if self.support_attack is not None and not self.head_knows_ways:
            raise ValueError(
                f'{type(self).__name__} has no head for the ways of a task before it has seen the support, so nothing '
                'can attack that: leave out support_attack and crossed, or take RobustMAML or RobustANIL'
            )


@MODELS.register_module()
class RobustANIL(HeadLearner):
    """ANIL (Raghu et al., ICLR 2020): the inner loop changes the head alone; features ``(T, n, F)`` are found once.

    Args:
        **kwargs: Of ``RobustMAML``.
    """

    base = 'ANIL'

    def fast_weights(self, weights: Weights, support: Tensor, labels: Tensor, steps: int, first_order: bool) -> Weights:
        """Adapt the head; see ``RobustMAML``."""
        features = self.learner.run(weights, support, 'features')

        def loss_fn(current: Weights) -> Tensor:
            return task_cross_entropy(self.learner.run(current, features, 'head'), labels)

        head = {name: weight for name, weight in weights.items() if name.startswith('head.')}
        return {**weights, **adapt(loss_fn, head, self.inner_lr, steps, first_order)}


def class_means(features: Tensor, labels: Tensor) -> Tensor:
    """Mean of the features of each class: ``(T, n, F)`` and labels ``(T, n)`` in 0 … N - 1 to ``(T, N, F)``."""
    members = F.one_hot(labels).to(features)
    return members.mT @ features / members.sum(1)[..., None]


@MODELS.register_module()
class RobustProtoNet(HeadLearner):
    """Prototypical networks (Snell et al., NeurIPS 2017): logits are negative squared distances to class means.

    ``-‖f - c‖² = 2 c·f - ‖c‖² - ‖f‖²``, and ``‖f‖²`` is the same for all classes, so the head of a task is linear with
    weights ``2 c (T, N, F)`` and biases ``-‖c‖² (T, N)``. Its own weights are not used, and training may have other
    ways than test.

    Args:
        **kwargs: Of ``RobustMAML`` but for ``support_attack`` and ``crossed``; steps and learning rate of the inner
            loop have no meaning.

    Raises:
        ValueError: The head is a kind of ``LinearClsHead`` whose logits are not linear, such as ``CosineClsHead``.
    """

    base = 'ProtoNet'
    head_knows_ways = False

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        head = type(self.learner.classifier.head)
        if head is not LinearClsHead:
            raise ValueError(f'with a {head.__name__} logits are not distances to class means: take a LinearClsHead')

    def describe_adaptation(self) -> str:
        """Return how a task learns."""
        return 'distances to class means'

    def check_ways(self, ways: int, classes: int, training: bool) -> None:
        """Any number of ways will do."""

    def fast_weights(self, weights: Weights, support: Tensor, labels: Tensor, steps: int, first_order: bool) -> Weights:
        """Make the head of the class means; see ``RobustMAML``."""
        means = class_means(self.learner.run(weights, support, 'features'), labels)
        return {**weights, 'head.fc.weight': 2 * means, 'head.fc.bias': -means.square().sum(-1)}


@MODELS.register_module()
class RobustBaselinePlusPlus(RobustANIL):
    """Baseline++ (Chen et al., ICLR 2019): a classifier of all training classes; in test a new head of cosines.

    Training sees the images of the same episodes, each with its class among all of training, and does not adapt. In
    test a head that starts at the class means takes ``test_steps`` of gradient descent on fixed features. Not in the
    paper: that start (it is random there) and whole batches (4 images there).

    Args:
        **kwargs: Of ``RobustMAML`` but for ``support_attack`` and ``crossed``, with ``train_steps=0`` and a
            ``CosineClsHead`` of all training classes.

    Raises:
        ValueError: Another head, steps in training, or none in test.
    """

    base = 'Baseline++'
    head_knows_ways = False

    def __init__(self, train_steps: int = 0, **kwargs) -> None:
        super().__init__(train_steps=train_steps, **kwargs)
        if not isinstance(self.learner.classifier.head, CosineClsHead) or train_steps or not self.test_steps:
            raise ValueError('Baseline++ needs a CosineClsHead of all training classes, train_steps=0 and test_steps')

    def check_ways(self, ways: int, classes: int, training: bool) -> None:
        """Compare the head with the classes of training; in test any number of ways will do."""
        found = self.learner.classifier.head.num_classes
        if training and found != classes:
            raise ValueError(f'the head has num_classes={found}, but the training data have {classes} classes')

    def objective(self, weights: Weights, episode: Episode) -> dict[str, Tensor]:
        """Losses of all images of the episodes among the classes of training; see ``RobustMAML``."""
        labels = torch.cat((episode['support_labels'], episode['query_labels']), 1)
        images = torch.cat((episode['support'], episode['query']), 1)
        whole = dict(episode, query=images, query_labels=episode['classes'].gather(1, labels))
        return super().objective(weights, whole)

    def fast_weights(self, weights: Weights, support: Tensor, labels: Tensor, steps: int, first_order: bool) -> Weights:
        """Start a new head and adapt it; without steps, as in training, keep the one there is; see ``RobustMAML``."""
        if not steps:
            return weights
        means = class_means(self.learner.run(weights, support, 'features'), labels)
        start = {**weights, 'head.fc.weight': F.normalize(means, dim=-1)}
        return super().fast_weights(start, support, labels, steps, first_order)
