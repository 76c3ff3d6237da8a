"""The model of a checkpoint, for the verbs that run no test of mmengine."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.registry import MODELS

from mmplugins.utils.checkpoint import load_without_code

from ..robust_maml import RobustMAML


def load_model(checkpoint: str | Path, config: str | Path | None = None) -> tuple[RobustMAML, Config]:
    """Return a model in the mode of tests and its config, by default the one that the checkpoint carries.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It carries no config and none is given, or its weights are not those of the config.
    """
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f'no checkpoint at {checkpoint}')
    saved = load_without_code(checkpoint)
    text = saved.get('meta', {}).get('cfg')
    if config is None and not text:
        raise ValueError(f'{checkpoint} carries no config: give --config')
    cfg = Config.fromfile(config) if config else Config.fromstring(text, '.py')
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = MODELS.build(cfg.model)
    try:
        load_state_dict(model, saved['state_dict'], strict=True)
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} is of another model than its config: {error}') from error
    return model.eval(), cfg
