"""What a config loads from other runs, mostly random weights, written by the code that would have written it."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import get_torchvision_models

from .pipelines import random_pipeline
from .rehearsal import run


def references(node: object) -> Iterator[tuple[str, dict]]:
    """Yield every file of a nested config that others write, with the dict that names it or owns its ``init_cfg``."""
    if isinstance(node, dict):
        init = node.get('init_cfg')
        if isinstance(init, dict) and init.get('checkpoint'):
            yield init['checkpoint'], node
        for key in ('checkpoint', 'load_from', 'calibration', 'pretrained', 'ann_file'):
            if isinstance(node.get(key), str):
                yield node[key], node
        node = [value for key, value in node.items() if key != 'init_cfg']
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from references(value)


class Weights:
    """Writes stand-ins below the working directory.

    Args:
        root: The checkout.
        read_config: Reads a config of ours, shortened as the table says, so that the weights fit the model of the run.
    """

    def __init__(self, root: Path, read_config: Callable[[Path], Config]) -> None:
        self.root, self.read_config = root, read_config
        # The first that matches; groups of the pattern are arguments.
        self.makers: list[tuple[str, Callable]] = [
            (r'torchvision://(resnet\d+)', self.of_torchvision),
            (r'work_dirs/(fcos|retinanet)_r18-w16_1xb8-12e_bccd/.*', self.of_member),
            (r'work_dirs/([^/]+)/(?:epoch|iter)_\d+\.pth', self.of_config),
            (r'work_dirs/metr_as_dino\.pth', self.of_to_dino),
            (r'work_dirs/hgkd_r50\.pth', self.of_export('hgkd_sparse-r50_mae-base_8xb512-amp-coslr-300e_in1k')),
            (r'work_dirs/hgkd/resnet18-w16\.pth', self.of_export('hgkd_sparse-r18-w16_mae_1xb40-20e_clothing10')),
            (r'work_dirs/(prae_fcos-retinanet_bccd)/calib\.json', self.of_fit_config),
            (r'work_dirs/prae_fcos-x101.*/calib\.json', self.of_fit),
            (r'data/objects365v2/annotations/objects365v2_(\w+)\.json', self.of_prepare),
            (r'checkpoints/swin_.*', self.of_backbone),
            (r'checkpoints/.*', self.of_teacher_or_member),
            (r'data/clip/.*', self.of_clip),
            (r'data/dall-e/.*', self.of_owner),
            (r'data/stable-diffusion-(v1-5|2-1|xl-base-1.0)', self.of_diffusers),
        ]

    def provide(self, cfg: Config) -> None:
        """Write every file that ``cfg`` loads and that is not there."""
        for path, node in list(references(cfg.to_dict())):
            for pattern, make in self.makers:
                match = re.fullmatch(pattern, path)
                if match:
                    if not Path(path).exists():
                        if '://' not in path:
                            Path(path).parent.mkdir(parents=True, exist_ok=True)
                        make(Path(path), node, *match.groups())
                    break

    def of_torchvision(self, path: Path, node: dict, name: str) -> None:
        """Put random weights of the backbone, which has torchvision's names, where the download would have gone."""
        file = Path(torch.hub.get_dir(), 'checkpoints', Path(urlsplit(get_torchvision_models()[name]).path).name)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            save_model(node, 'mmdet', file)

    def of_config(self, path: Path, node: dict, name: str) -> Path:
        """Write a checkpoint of another config of ours; return that config."""
        (config,) = self.root.glob(f'configs/*/{name}.py')
        if not path.exists():
            cfg = self.read_config(config)
            self.provide(cfg)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_model(cfg.model, cfg.default_scope, path)
        return config

    def of_member(self, path: Path, node: dict, name: str) -> None:
        """Take the small detectors that come with the repository."""
        shutil.copy(self.root / f'tests/data/prae/{name}.pth', path)

    def of_to_dino(self, path: Path, node: dict) -> None:
        """Convert the jointly pretrained METR."""
        name = 'metr_dino-4scale_r50_32xb1-12e_coco-o365-oid'
        checkpoint = Path(f'work_dirs/{name}/epoch_12.pth')
        config = self.of_config(checkpoint, node, name)
        shortened = Path(f'work_dirs/{name}/shortened.py')
        self.read_config(config).dump(shortened)
        run_verb('metr', 'to-dino', shortened, checkpoint, '--num-classes', 80, '--out', path)

    def of_export(self, name: str) -> Callable[[Path, dict], None]:
        """Return a function that exports the dense student of a pretraining."""

        def export(path: Path, node: dict) -> None:
            checkpoint = Path(f'work_dirs/{name}/epoch_1.pth')
            config = self.of_config(checkpoint, node, name)
            run_verb('hgkd', 'export', config, checkpoint, '--out', path)

        return export

    def of_fit_config(self, path: Path, node: dict, name: str) -> None:
        """Run the config that fits the curves of the small ensemble."""
        cfg = self.read_config(self.root / f'configs/prae/{name}_fit.py')
        self.provide(cfg)
        run(cfg)

    def of_fit(self, path: Path, node: dict) -> None:
        """Divide COCO's validation set, and fit curves of two detectors that find everything."""
        run_verb('prae', 'split', '--ann', 'data/coco/annotations/instances_val2017.json', '--fit-fraction', 0.5,
                 '-o', 'data/coco/annotations/instances_val2017')  # fmt: skip
        annotations = 'data/coco/annotations/instances_val2017_fit.json'
        found = json.loads(Path(annotations).read_text())['annotations']
        keys = ('image_id', 'category_id', 'bbox')
        boxes = path.with_name('boxes.bbox.json')
        boxes.write_text(json.dumps([dict({key: box[key] for key in keys}, score=0.5) for box in found]))
        names = [f'--det={member["name"]}={boxes}' for member in node['detectors']]
        run_verb('prae', 'fit', '--ann', annotations, *names, '-o', path)

    def of_prepare(self, path: Path, node: dict, part: str) -> None:
        """Bring published annotations into the form that METR reads."""
        run_verb('metr', 'prepare', 'objects365', path.parents[1])

    def of_teacher_or_member(self, path: Path, node: dict) -> None:
        """Write the teacher of a hook, or a member of an ensemble that has a config of mmdet."""
        if 'teacher' in node:
            save_model(node['teacher'], 'mmpretrain', path, lambda name: f'backbone.{name}')
        else:
            save_model(get_config(node['config']).model, 'mmdet', path)

    def of_backbone(self, path: Path, node: dict) -> None:
        """Write the weights of a backbone of mmdet's."""
        save_model(node, 'mmdet', path)

    def of_owner(self, path: Path, node: dict) -> None:
        """Write the weights of the module whose ``init_cfg`` names the file."""
        save_model(node, 'mmpretrain', path)

    def of_clip(self, path: Path, node: dict) -> None:
        """Write the tower with the names of OpenAI's file."""
        save_model(node, 'mmpretrain', path, lambda name: name.replace('tower.', 'visual.'))

    def of_diffusers(self, path: Path, node: dict, version: str) -> None:
        """Write a diffusers folder with one level in the UNet, and embeddings as wide as that version's."""
        widths, kind = {
            'v1-5': ((768,), 'epsilon'),
            '2-1': ((1024,), 'v_prediction'),
            'xl-base-1.0': ((768, 1280), 'epsilon'),
        }[version]
        random_pipeline(widths, kind, vae_levels=4).save_pretrained(path)


def save_model(model: dict, scope: str, path: Path, rename: Callable[[str], str] = str) -> None:
    """Build a model with random weights and save them as a checkpoint."""
    init_default_scope(scope)
    built = MODELS.build(untrained(model))
    # Residual branches that start at zero, among others: any other random net with frozen batch norms overflows.
    built.init_weights()
    state = {rename(name): value for name, value in built.state_dict().items()}
    torch.save(dict(meta={}, state_dict=state), path)


def untrained(node: object) -> object:
    """A config without the weights that it or a part of it starts from: they would be downloaded."""
    if isinstance(node, dict):
        start = node.get('init_cfg')
        is_file = isinstance(start, dict) and start.get('type') == 'Pretrained'
        kept = {key: untrained(value) for key, value in node.items() if not (is_file and key == 'init_cfg')}
        return type(node)(kept)
    if isinstance(node, (list, tuple)):
        return type(node)(untrained(value) for value in node)
    return node


def run_verb(plugin: str, *arguments: object) -> None:
    """Run ``python -m mmplugins.<plugin> ...`` in this process."""
    main = importlib.import_module(f'mmplugins.{plugin}.__main__').main
    assert not main([str(argument) for argument in arguments]), f'{plugin} {arguments}'
