"""The README's three commands on a folder like CUB: train, predict, draw."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmplugins.its_maml.__main__ import main
from mmplugins.its_maml.verbs import predict
from mmplugins.its_maml.verbs.loading import load_model
from mmplugins.its_maml.verbs.predict import AdaptedNetwork

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/its_maml/its-maml_conv4_5way-3to1_1xb4-15ki_custom.py'


@pytest.mark.filterwarnings('ignore:.*batch norms')
@pytest.mark.parametrize('norm', ['task_batch', 'instance'])
def test_adapted_network_is_the_learner_after_its_support(build, episode, norm):
    """Where batch norms see the batch, the support is in it; else the logits are those of the queries alone."""
    model = build(norm=norm)
    support, labels, query = (episode[name][0] for name in ('support', 'support_labels', 'query'))
    network = AdaptedNetwork(model, support, labels)
    first = {name: value[:1] for name, value in episode.items()}
    if norm == 'task_batch':
        first['query'] = torch.cat((support, query))[None]
    torch.testing.assert_close(network(query), model(**first)[0][-len(query) :])
    one = network(query[:1])
    assert one.shape == (1, 3) and one.isfinite().all()
    if norm == 'instance':
        torch.testing.assert_close(one, network(query)[:1])


@pytest.mark.filterwarnings('ignore:.*batch norms')
@pytest.mark.parametrize('norm', ['task_batch', 'instance'])
def test_images_that_are_predicted_alone_are_in_batches(build, episode, norm, monkeypatch):
    network = AdaptedNetwork(build(norm=norm), episode['support'][0], episode['support_labels'][0])
    query = episode['query'][0]
    whole, sizes = network(query).softmax(-1), []
    monkeypatch.setattr(predict, 'BATCH', 5)
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    torch.testing.assert_close(predict.predict(network, query), whole)
    assert sizes == ([12] if norm == 'task_batch' else [5, 5, 2])


def test_packages_for_onnx_are_looked_for_before_anything_else(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    assert main(['predict', 'absent.pth', '--support', 'a', '--query', 'b', '--onnx', 'c.onnx']) == 1
    assert '--onnx needs onnxscript: pip install onnx onnxscript onnxruntime' in capsys.readouterr().err


@pytest.fixture(scope='module')
def birds(tmp_path_factory) -> Path:
    """15 classes of 18 pictures, each class of a colour of its own, and lists as easy-few-shot-learning has them."""
    root = tmp_path_factory.mktemp('cub')
    rng = np.random.default_rng(0)
    names = [f'{i:03d}.Bird_{i}' for i in range(15)]
    for name in names:
        color = rng.integers(0, 256, 3)
        for i in range(18):
            pixels = np.clip(color + rng.normal(0, 20, (120, 100, 3)), 0, 255).astype(np.uint8)
            path = root / 'images' / name / f'{name}_{i}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    for part, chosen in zip(('train', 'val', 'test'), (names[:5], names[5:10], names[10:]), strict=True):
        roots = [f'./data/CUB/images/{name}' for name in chosen]
        (root / f'{part}.json').write_text(json.dumps(dict(class_names=chosen, class_roots=roots)))
    return root


@pytest.fixture(scope='module')
def checkpoint(birds, repo, run, tmp_path_factory) -> Path:
    """Train as the README does, two updates of small episodes."""
    out = tmp_path_factory.mktemp('work')
    changes = {
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.interval': 2,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'val_dataloader.dataset.num_episodes': 1,
        'train_dataloader.batch_size': 1,
        'custom_hooks.1.estimators': ['pca90'],
        'train_dataloader.dataset.queries': 2,
        'val_dataloader.dataset.queries': 2,
    }
    options = [f'{name}={value}' for name, value in changes.items()]
    command = (sys.executable, repo / 'tools/train.py', CONFIG, '--work-dir', out, '--cfg-options', *options)
    run(*command, env=dict(FEW_SHOT_DATA=str(birds)))
    return out / 'iter_2.pth'


@pytest.fixture
def folders(birds, tmp_path) -> tuple[Path, Path]:
    """Support of one picture a class, and queries in folders of their classes."""
    for i in range(10, 15):
        name = f'{i:03d}.Bird_{i}'
        for number, part in enumerate(('support', 'query', 'query')):
            target = tmp_path / part / name / f'{number}.jpg'
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((birds / 'images' / name / f'{name}_{number}.jpg').read_bytes())
    return tmp_path / 'support', tmp_path / 'query'


@pytest.mark.slow
def test_a_folder_like_cub_trains_predicts_and_draws(checkpoint, folders, birds, tmp_path, capsys, monkeypatch):
    pytest.importorskip('onnxruntime')
    support, query = folders
    out, onnx = tmp_path / 'out', tmp_path / 'adapted.onnx'
    arguments = ['--support', str(support), '--query', str(query), '--out', str(out), '--onnx', str(onnx)]
    assert main(['predict', str(checkpoint), *arguments]) == 0
    printed = capsys.readouterr().out
    assert 'of 10 right' in printed and 'together with the other queries' in printed
    rows = list(csv.DictReader((out / 'predictions.csv').open()))
    names = [f'{i:03d}.Bird_{i}' for i in range(10, 15)]
    assert [row['file'] for row in rows] == [f'{name}/{i}.jpg' for name in names for i in (1, 2)]
    for row in rows:
        shares = {name: float(row[name]) for name in names}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
        assert row['predicted'] == max(shares, key=shares.get)
    assert Image.open(out / 'episode.png').width > 500

    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx))
    model, cfg = load_model(checkpoint)
    images = predict.read_images(predict.image_files(query), cfg)
    shown = predict.image_files(support)
    network = AdaptedNetwork(model, predict.read_images(shown, cfg), torch.arange(5))
    for some in (images[:1], images[2:5]):
        (found,) = session.run(None, dict(images=some.numpy()))
        torch.testing.assert_close(torch.from_numpy(found), network(some), rtol=1e-3, atol=1e-3)

    monkeypatch.setenv('FEW_SHOT_DATA', str(birds))
    assert main(['view', str(CONFIG), str(checkpoint), '--queries', '2', '--out', str(tmp_path / 'episode.png')]) == 0
    assert Image.open(tmp_path / 'episode.png').width > 300


@pytest.mark.slow
def test_a_network_that_gives_no_numbers_is_not_exported(tmp_path):
    class Broken(torch.nn.Module):
        def forward(self, images):
            return images.flatten(1).sum(1, keepdim=True) * torch.nan

    pytest.importorskip('onnxruntime')
    with pytest.raises(RuntimeError, match='differs from torch by nan'):
        predict.export(Broken().eval(), torch.rand(3, 1, 4, 4), tmp_path / 'broken.onnx')
    assert not (tmp_path / 'broken.onnx').exists()


@pytest.mark.slow
def test_what_is_wrong_is_one_line(checkpoint, folders, tmp_path, capsys):
    support, query = folders
    given = ['--query', str(query)]
    assert main(['predict', 'absent.pth', '--support', str(support), *given]) == 1
    assert 'no checkpoint at absent.pth' in capsys.readouterr().err
    assert main(['predict', str(checkpoint), '--support', str(tmp_path / 'none'), *given]) == 1
    assert 'no images below' in capsys.readouterr().err
    assert main(['predict', str(checkpoint), '--support', str(support / '010.Bird_10'), *given]) == 1
    assert 'num_classes=5, but episodes have 1 ways' in capsys.readouterr().err


def test_data_that_are_no_files_are_named():
    cfg = Config.fromfile(ROOT / 'configs/its_maml/its-maml_conv4-w16_5way-3to1_1xb4-400i_omniglot28.py')
    with pytest.raises(ValueError, match='a pipeline that loads images'):
        predict.read_images([Path('a.png')], cfg)
