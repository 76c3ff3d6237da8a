"""Learn classes from a few images each and predict others: a CSV, a picture of the episode, and ONNX if wanted."""

from __future__ import annotations

import argparse
import copy
import csv
import io
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from torch import Tensor, nn

from mmplugins.utils.atomic import replacing, write_text

from ..data.datasets import files_below
from ..data.episodes import stack_images
from ..robust_maml import RobustMAML
from .loading import load_model
from .view import show

DRAWN = 40  # queries of the picture, at most
COLUMNS = 8
BATCH = 100  # queries that go through the network at once, where each is predicted by itself


class AdaptedNetwork(nn.Module):
    """A learner after its support: images ``(n, C, H, W)`` in [0, 1] to logits ``(n, N)``, for any number of images.

    Where batch norms take the statistics of the batch, the support is in the batch as well, so that one image has
    statistics too. Not in the paper, whose queries are many; the more there are, the less it changes. All images are
    then one batch, and memory bounds their number: Conv4 at 84x84 takes 2.6 MB for each.

    Args:
        model: Meta-trained; it does not change.
        support: ``(N * K, C, H, W)``.
        labels: ``(N * K,)`` in 0 … N - 1.
    """

    def __init__(self, model: RobustMAML, support: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.learner = copy.deepcopy(model.learner).eval()
        for name, weight in model.adapt_for_test(dict(support=support[None], support_labels=labels[None])).items():
            parent, _, attribute = name.rpartition('.')
            setattr(self.learner.classifier.get_submodule(parent), attribute, nn.Parameter(weight[0]))
        self.requires_grad_(False)
        self.register_buffer('beside', support if model.transductive else support[:0])

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(n, N)``."""
        return self.learner(torch.cat((self.beside, images)))[len(self.beside) :]


def image_files(folder: Path) -> list[Path]:
    """Return the images below a folder, but for hidden ones.

    Raises:
        FileNotFoundError: There are none.
    """
    found = files_below(folder)
    if not found:
        raise FileNotFoundError(f'no images below {folder.resolve()}')
    return found


def read_images(files: list[Path], cfg: Config) -> Tensor:
    """Read files as the test of a config does, ``(n, C, H, W)`` in [0, 1].

    Raises:
        ValueError: The test reads no files.
    """
    pipeline = cfg.test_dataloader.dataset.dataset.pipeline
    if not pipeline[0]['type'].startswith('Load'):
        raise ValueError('the test data of this config are no files: give --config with a pipeline that loads images')
    transforms = Compose(pipeline)
    return stack_images([transforms(dict(img_path=str(file)))['inputs'] for file in files])


def draw(
    path: Path, names: list[str], support: Tensor, labels: Tensor, query: Tensor, found: list[str], truth: list[str]
) -> None:
    """Draw the support, a row a class, and below it the first queries with their predictions, green if known and right.

    Args:
        path: Of the picture.
        names: Of the classes.
        support: ``(N * K, C, H, W)``.
        labels: ``(N * K,)`` in 0 … N - 1.
        query: ``(n, C, H, W)``.
        found: Predicted names ``(n,)``.
        truth: Names of the folders of the queries ``(n,)``; of other names nothing is known.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    query = query[:DRAWN]
    rows = len(names) - (-len(query) // COLUMNS)
    figure, panels = pyplot.subplots(
        rows, COLUMNS, figsize=(1.2 * COLUMNS, 1.4 * rows), layout='constrained', squeeze=False
    )
    for panel in panels.flat:
        panel.axis('off')
    for way, name in enumerate(names):
        for panel, image in zip(panels[way], support[labels == way], strict=False):
            show(panel, image, f'support: {name[-14:]}')
    for i, (panel, image) in enumerate(zip(panels[len(names) :].flat, query, strict=False)):
        show(panel, image, f'→ {found[i][-14:]}', found[i] == truth[i] if truth[i] in names else None)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80)
    pyplot.close(figure)


def need_onnx() -> None:
    """Import what ``export`` needs.

    Raises:
        ImportError: ONNX, its script or ONNX Runtime is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'--onnx needs {error.name}: pip install onnx onnxscript onnxruntime') from error


def predict(network: AdaptedNetwork, query: Tensor) -> Tensor:
    """Return the share of each class ``(n, N)`` for images ``(n, C, H, W)``."""
    parts = [query] if len(network.beside) else query.split(BATCH)
    return torch.cat([network(part) for part in parts]).softmax(-1)


def export(network: AdaptedNetwork, example: Tensor, path: Path) -> float:
    """Write a network of one task as ONNX for any number of images; return its largest difference from torch.

    Args:
        network: Adapted.
        example: Images ``(n, C, H, W)``; the file is compared on the first, and on all.
        path: Output file.

    Raises:
        ImportError: See ``need_onnx``.
        RuntimeError: The file gives other numbers than torch.
    """
    need_onnx()
    import onnxruntime

    two = example[:1].expand(2, -1, -1, -1)
    with replacing(path) as temporary:
        # The tracing exporter refuses a batch norm without running statistics.
        torch.onnx.export(
            network,
            (two,),
            str(temporary),
            input_names=['images'],
            output_names=['logits'],
            dynamic_shapes=({0: torch.export.Dim('n', min=1)},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(str(temporary), providers=['CPUExecutionProvider'])
        differences = []
        for images in (example[:1], example):
            logits, (found,) = network(images), session.run(None, dict(images=images.numpy()))
            differences.append((logits - torch.from_numpy(found)).abs().max().item())
            if not differences[-1] <= 1e-3 * max(1.0, logits.abs().max().item()):  # also NaN
                raise RuntimeError(f'the ONNX file differs from torch by {differences[-1]:.3g}')
    return max(differences)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``predict``."""
    parser.add_argument('checkpoint')
    parser.add_argument('--support', type=Path, required=True, help='<class>/* with a few images of each class')
    parser.add_argument('--query', type=Path, required=True, help='images to predict; in <class>/* they are judged')
    parser.add_argument('--config', help='default: the one in the checkpoint')
    parser.add_argument('--out', type=Path, default=Path('its_maml_predictions'), help='folder of CSV and picture')
    parser.add_argument('--onnx', type=Path, help='write the adapted network, images in [0, 1] to logits')


@torch.no_grad()
def run(args: argparse.Namespace) -> None:
    """Adapt to the support, predict, write, print."""
    if args.onnx:
        need_onnx()  # before a prediction that may take long
    model, cfg = load_model(args.checkpoint, args.config)
    shown, asked = image_files(args.support), image_files(args.query)
    names = sorted({file.parent.name for file in shown})
    model.check_ways(len(names), len(names), training=False)
    labels = torch.tensor([names.index(file.parent.name) for file in shown])
    support, query = read_images(shown, cfg), read_images(asked, cfg)
    network = AdaptedNetwork(model, support, labels)
    shares = predict(network, query)
    found, truth = [names[i] for i in shares.argmax(-1).tolist()], [file.parent.name for file in asked]
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(('file', 'predicted', *names))
    for file, name, row in zip(asked, found, shares.tolist(), strict=True):
        writer.writerow((file.relative_to(args.query).as_posix(), name, *(f'{share:.4f}' for share in row)))
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(args.out / 'predictions.csv', table.getvalue())
    draw(args.out / 'episode.png', names, support, labels, query, found, truth)
    print('together with the other queries and the support' if model.transductive else 'each image by itself')
    judged = [a == b for a, b in zip(found, truth, strict=True) if b in names]
    if judged:
        print(f'{sum(judged)} of {len(judged)} right')
    if args.onnx:
        print(f'{args.onnx}: differs from torch by {export(network, query[:BATCH], args.onnx):.1e}')
    print(f'written to {args.out}')
