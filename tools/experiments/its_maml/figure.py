"""Accuracy and dimension over shots, clean against robust, accuracy over inner steps; every seed a dot."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from experiments.frame.claims import Found
from mmplugins.utils.atomic import replacing

WITH = ('R-MAML, 1 shot', 'ITS-MAML, 2 shots', 'ITS-MAML, 3 shots', 'ITS-MAML, 5 shots')
WITHOUT = ('MAML, 1 shot', 'MAML, 5 shots')


def draw(found: Found, path: Path) -> None:
    """Draw the five panels."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 5, figsize=(21, 3.6), layout='constrained')

    def line(panel, names: Sequence[str], xs: Sequence[int], key: str, **style) -> None:
        values = [list(found.values('omniglot', name, key).values()) for name in names]
        (drawn,) = panel.plot(xs, list(map(mean, values)), **style)
        for x, dots in zip(xs, values, strict=True):
            panel.scatter([x] * len(dots), dots, s=10, color=drawn.get_color())

    for panel, metrics, label in (
        (panels[0], dict(clean='clean', pgd10='PGD-10'), 'accuracy, %'),
        (panels[1], dict(id_pca90='clean features', id_noise='noise, mean over tasks'), 'intrinsic dimension'),
    ):
        for key, name in metrics.items():
            line(panel, WITH, (1, 2, 3, 5), key, label=f'{name}, λ = 1')
            line(panel, WITHOUT, (1, 5), key, label=f'{name}, λ = 0', linestyle='--')
        panel.set(xlabel='training shots', ylabel=label, title='Omniglot, test with 1 shot')
    for panel, data in ((panels[2], 'omniglot'), (panels[3], 'digits')):
        names = [name for name in found.arms(data) if 'step' not in name]
        for name, color in zip(names, pyplot.get_cmap('tab20').colors, strict=False):
            xs, ys = (list(found.values(data, name, key).values()) for key in ('clean', 'pgd10'))
            panel.scatter(xs, ys, s=18, label=name, color=color)
        panel.set(xlabel='clean, %', ylabel='PGD-10, %', title=data)
    for name in (WITH[0], WITH[-1]):
        names = [f'{name}, 1 step', name, f'{name}, 5 steps']
        line(panels[4], names, (1, 2, 5), 'clean', label=f'clean, {name}')
        line(panels[4], names, (1, 2, 5), 'pgd10', label=f'PGD-10, {name}', linestyle='--')
    panels[4].set(xlabel='inner steps in training', ylabel='accuracy, %', title='Omniglot')
    for panel in panels:
        panel.grid(alpha=0.3)
        # The names of the third are too many to stand inside.
        beside = dict(loc='center left', bbox_to_anchor=(1, 0.5)) if panel is panels[2] else {}
        panel.legend(fontsize=6, **beside)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=72)
    pyplot.close(figure)
