"""What the gate looks at, beside the attention that each token receives in exact attention."""

from pathlib import Path

from experiments.spsa.approximate import maps
from mmplugins.utils.atomic import replacing

TITLES = (
    'image', 'SPSA: correlation\nwith the mean token', 'received attention,\ncorrelations',
    'received attention,\ndot products',
)  # fmt: skip


def draw_maps(data: Path, size: int, path: Path) -> None:
    """Draw one image of each of four classes of ``data/<class>/*``, ``size`` pixels wide."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    columns = maps(data, size)
    figure, panels = pyplot.subplots(4, len(columns), figsize=(1.5 * len(columns) + 1.4, 6), layout='constrained')
    for place, (image, rho, received) in enumerate(columns):
        picture = image.permute(1, 2, 0)
        picture = (picture - picture.min()) / (picture.max() - picture.min())
        for panel, title, content in zip(panels[:, place], TITLES, (picture, rho, *received), strict=True):
            panel.imshow(content.numpy(), cmap='viridis')
            panel.set_xticks([])
            panel.set_yticks([])
            if place == 0:
                panel.set_ylabel(title, fontsize=8, rotation=0, ha='right', va='center')
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=72)
    pyplot.close(figure)
