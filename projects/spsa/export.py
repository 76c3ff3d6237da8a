"""Networks with SPSA as ONNX and TorchScript files with free height and width, compared with torch before they stay.

``B, C, H, W``: images, channels, height, width.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from mmplugins.utils.atomic import replacing

TOLERANCE = 1e-4  # of the largest difference, over the largest value of the output
INSTALL = 'pip install onnx onnxscript onnxruntime'


class Exported(nn.Module):
    """What is written: the logits of a classifier, else the feature maps of backbone and neck.

    Args:
        model: A model of mmpretrain, mmdet or mmseg, or a backbone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.outputs = 'features'
        if hasattr(model, 'extract_feat'):
            is_classifier = type(model).__name__ == 'ImageClassifier' and model.with_head
            self.outputs = 'logits' if is_classifier else 'features'

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map standardized images ``(B, 3, H, W)`` to logits ``(B, K)``, or to maps ``(B, C_i, H_i, W_i)``."""
        if self.outputs == 'logits':
            return (self.model(x, mode='tensor'),)
        y = self.model.extract_feat(x) if hasattr(self.model, 'extract_feat') else self.model(x)
        return (y,) if isinstance(y, Tensor) else tuple(y)


def check(name: str, run, module: nn.Module, sizes: list[tuple[int, int]], batch: int = 1) -> float:
    """Compare a written file with torch, at sizes that it was not written with.

    Args:
        name: For the message.
        run: Maps an array ``(B, 3, H, W)`` to a list of arrays.
        module: What was exported.
        sizes: Heights and widths.
        batch: ``B``.

    Returns:
        The largest difference over the largest value.

    Raises:
        RuntimeError: It is above 1e-4 or not a number, or the file does not run.
    """
    worst = 0.0
    for height, width in sizes:
        x = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = [y.numpy() for y in module(x)]
        try:
            found = run(x.numpy())
        except Exception as error:
            raise RuntimeError(
                f'{name} does not run at {height} x {width}, nothing was written. If the network itself is not free in '
                f'size, as MobileViT, give --fixed. {type(error).__name__}: {str(error).splitlines()[0]}'
            ) from error
        for a, b in zip(found, expected, strict=True):
            difference = np.abs(a - b).max() / max(np.abs(b).max(), 1e-12) if a.shape == b.shape else np.inf
            if not difference <= TOLERANCE:  # also NaN, which max() below would pass over
                raise RuntimeError(
                    f'{name} differs from torch by {difference:.1e} at {height} x {width}; nothing was written'
                )
            worst = max(worst, float(difference))
    return worst


def check_sizes(size: tuple[int, int], fixed: bool) -> list[tuple[int, int]]:
    """The size of the example, and unless it is fixed others, also one that is not a multiple of 32."""
    height, width = size
    return [size] if fixed else [size, (height + 64, width + 32), (height + 33, width + 7)]


def to_onnx(
    module: nn.Module,
    path: str | Path,
    size: tuple[int, int] = (256, 256),
    opset: int = 13,
    fixed: bool = False,
) -> float:
    """Write ONNX with free batch, height and width, and compare ONNX Runtime with torch.

    Args:
        module: Maps ``(B, 3, H, W)`` to a tuple of tensors.
        path: Output file.
        size: Of the example image.
        opset: 11 to 17. Before 17, ONNX has no layer norm, so SPSA is nothing but element-wise operations and means.
        fixed: Only for the height and width of ``size``; of some hosts' networks the others give wrong shapes.

    Returns:
        Largest relative difference.

    Raises:
        ImportError: ONNX or ONNX Runtime is missing.
        RuntimeError: The file gives other numbers than torch.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise ImportError(f'ONNX export needs {error.name}: {INSTALL}') from error
    module = module.eval()
    free = {0: 'batch'} if fixed else {0: 'batch', 2: 'height', 3: 'width'}
    outputs = [f'output{index}' for index in range(len(module(torch.zeros(1, 3, *size))))]
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the exporter on its own age, and on sizes that are constants by design
        # The tracing exporter: the newer one writes opset 18 at least, with fewer runtimes that read it.
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, *size),),
            str(temporary),
            input_names=['input'],
            output_names=outputs,
            dynamic_axes={'input': free, **{name: {0: 'batch'} for name in outputs}},
            opset_version=opset,
            dynamo=False,
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # on output shapes that are not in the file, as they are free
        session = onnxruntime.InferenceSession(str(temporary), options, providers=['CPUExecutionProvider'])
        return check('ONNX', lambda x: session.run(None, {'input': x}), module, check_sizes(size, fixed), batch=3)


def to_torchscript(
    module: nn.Module, path: str | Path, size: tuple[int, int] = (256, 256), fixed: bool = False
) -> float:
    """Write TorchScript, and compare it with torch at other sizes.

    Args:
        module: Maps ``(B, 3, H, W)`` to a tuple of tensors.
        path: Output file.
        size: Of the example image.
        fixed: Only for that size; of some hosts' networks the others give wrong shapes.

    Returns:
        Largest relative difference.

    Raises:
        RuntimeError: The file gives other numbers than torch.
    """
    module = module.eval()
    with replacing(path) as temporary, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the tracer, on sizes that are constants by design
        torch.jit.trace(module, torch.zeros(2, 3, *size), check_trace=False).save(str(temporary))
        script = torch.jit.load(str(temporary))
        return check(
            'TorchScript',
            lambda x: [y.numpy() for y in script(torch.from_numpy(x))],
            module,
            check_sizes(size, fixed),
            batch=3,
        )  # fmt: skip


def build_model(config: str | Path, checkpoint: str | None = None) -> Exported:
    """Build the model of a config, with the weights of a checkpoint if one is given.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The config has no model.
    """
    for path in filter(None, (config, checkpoint)):
        if not Path(path).is_file():
            raise FileNotFoundError(f'no file {path}')
    cfg = Config.fromfile(config)
    if 'model' not in cfg:
        raise ValueError(f'{config} has no model')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(cfg.model)
    if checkpoint:
        load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    model.eval()  # of some backbones it returns None
    return Exported(model)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``export``."""
    parser.add_argument('config', help='of mmpretrain or mmdet')
    parser.add_argument('checkpoint', nargs='?', help='weights; without them the network is written as it is built')
    parser.add_argument('--onnx', metavar='FILE', help='output')
    parser.add_argument('--torchscript', metavar='FILE', help='output')
    parser.add_argument(
        '--size', type=int, nargs=2, default=(256, 256), metavar=('H', 'W'), help='of the example image'
    )
    parser.add_argument('--fixed', action='store_true', help='only for that size; needed by MobileViT')
    parser.add_argument('--opset', type=int, default=13, help='of ONNX, 11 to 17 (default 13)')


def run(args: argparse.Namespace) -> None:
    """Do what the arguments say.

    Raises:
        ValueError: No output is asked for.
    """
    if not args.onnx and not args.torchscript:
        raise ValueError('give --onnx FILE, --torchscript FILE or both')
    module = build_model(args.config, args.checkpoint)
    size = tuple(args.size)
    for path, write in ((args.onnx, lambda p: to_onnx(module, p, size, args.opset, args.fixed)),
                        (args.torchscript, lambda p: to_torchscript(module, p, size, args.fixed))):  # fmt: skip
        if path:
            difference = write(path)
            print(f'{path}: {module.outputs}, differs from torch by {difference:.0e}')
