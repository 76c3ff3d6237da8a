"""The model of a checkpoint, for the verbs that run no test of mmengine."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.registry import MODELS

from mmplugins.utils.checkpoint import load_without_code

from ..robust_maml import RobustMAML


def read_checkpoint(path: str | Path) -> tuple[dict, Config | None]:
    """Return what a checkpoint holds, and the config of its training if it carries one.

    Raises:
        FileNotFoundError: There is no checkpoint.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'no checkpoint at {path}')
    saved = load_without_code(path)
    text = saved.get('meta', {}).get('cfg')
    return saved, Config.fromstring(text, '.py') if text else None


def load_weights(model: RobustMAML, saved: dict, path: str | Path) -> None:
    """Put all weights of a checkpoint into a model.

    Raises:
        ValueError: They are not those of the model; ``path`` is for this error.
    """
    try:
        load_state_dict(model, saved.get('state_dict', saved), strict=True)
    except RuntimeError as error:
        raise ValueError(f'{path} is of another model than its config: {error}') from error


def load_model(checkpoint: str | Path, config: str | Path | None = None) -> tuple[RobustMAML, Config]:
    """Return a model in the mode of tests and its config, by default the one that the checkpoint carries.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It carries no config and none is given, or its weights are not those of the config.
    """
    saved, trained = read_checkpoint(checkpoint)
    cfg = Config.fromfile(config) if config else trained
    if cfg is None:
        raise ValueError(f'{checkpoint} carries no config: give --config')
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = MODELS.build(cfg.model)
    load_weights(model, saved, checkpoint)
    return model.eval(), cfg
