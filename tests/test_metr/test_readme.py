"""What the README shows, built as it stands there."""

import re
from pathlib import Path

import torch

from mmplugins.metr.text.bank import TextBank
from mmplugins.metr.text.vocabulary import Vocabulary

README = Path(__file__).resolve().parents[2] / 'projects/metr/README.md'


def test_vocabulary_and_bank_of_the_config():
    names: dict = dict(train_pipeline=[])
    blocks = re.findall(r'^```python\n(.*?)^```', README.read_text(encoding='utf-8'), re.M | re.S)
    exec(next(block for block in blocks if 'custom_imports' in block), names)  # noqa: S102
    vocabulary = Vocabulary(**names['model']['vocabulary'])
    # The farm's first two names are COCO's, its mouse is not.
    assert len(vocabulary) == 81
    assert [vocabulary.names[row] for row in vocabulary.rows('farm')] == ['cow', 'traffic_light', 'mouse (animal)']
    assert vocabulary.index('mouse') in vocabulary.rows('coco')
    bank = TextBank(names=vocabulary.lookup_names, **names['model']['text_bank'])
    assert bank().shape == (81, 256) and torch.isfinite(bank()).all()
