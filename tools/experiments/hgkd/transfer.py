"""What an encoder of photos is worth: a ridge probe, fine-tuning on few labels, and another task on other pictures."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from experiments import ROOT
from experiments.frame.tasks import Context
from experiments.hgkd.evaluate import RATES, Part, ridge
from experiments.workloads.classify import choose, fit, top1
from experiments.workloads.detect import train_detector
from experiments.workloads.images import flip_and_shift

CLASSIFIER = ROOT / 'configs/hgkd/resnet18-w16_1xb40-20e_clothing10_from-hgkd.py'
DETECTOR = ROOT / 'configs/hgkd/retinanet_r18-w16_1xb8-8e_bccd_from-hgkd.py'
LABELS, EPOCHS, DETECTOR_EPOCHS = 10, 20, 4
METRICS = dict(
    probe='ridge probe of the frozen encoder, percent',
    few=f'fine-tuned on {LABELS} labels a class, percent',
    cells=f'AP of a detector of blood cells after {DETECTOR_EPOCHS} epochs, percent',
)


def classifier(weights: dict[str, Tensor], classes: int, seed: int) -> nn.Module:
    """Return the classifier of the fine-tuning config with an encoder; the seed draws its last layer."""
    cfg = Config.fromfile(CLASSIFIER).model
    cfg.backbone.init_cfg = None
    cfg.head.num_classes = classes
    torch.manual_seed(seed)
    model = MODELS.build(cfg)
    model.backbone.load_state_dict(weights, strict=True)
    return model


def few_labels(weights: dict[str, Tensor], train: Part, test: Part, held: int, seed: int, epochs: int) -> float:
    """Test accuracy in percent after fine-tuning on ten labels a class.

    The learning rate is chosen on the last ``held`` training photos, which no arm is fine-tuned on.
    """
    images, labels = (part[:-held] for part in train)
    chosen = choose(labels, LABELS, seed)
    tried = []
    for rate in RATES:
        model = classifier(weights, int(labels.max()) + 1, seed)
        options = dict(epochs=epochs, batch=25, lr=rate, seed=seed, augment=flip_and_shift)
        fit(model, images[chosen], labels[chosen], **options)
        tried.append(model)
    held_out = tuple(part[-held:] for part in train)
    return top1(max(tried, key=lambda model: top1(model, *held_out)), *test)


def worth(encoder: nn.Module, weights: Path, train: Part, test: Part, seed: int, context: Context) -> dict[str, float]:
    """Return the numbers of ``METRICS``.

    Args:
        encoder: Images to maps, the deepest last; in eval mode.
        weights: File in which the same stand behind ``backbone.``.
        train: Photos ``(N, 3, S, S)`` and labels ``(N)``, in random order.
        test: Likewise.
        seed: Of the fine-tunings.
        context: Of the job.
    """
    held = len(train[1]) // 8
    checkpoint = {'model.backbone.init_cfg.checkpoint': str(weights)}
    size = dict(epochs=1, images=8) if context.quick else dict(epochs=DETECTOR_EPOCHS)
    return dict(
        probe=ridge(lambda images: encoder(images)[-1], train, test, held),
        few=few_labels(encoder.state_dict(), train, test, held, seed, 1 if context.quick else EPOCHS),
        cells=100 * train_detector(DETECTOR, seed, context.folder, changes=checkpoint, **size)['ap'],
    )
