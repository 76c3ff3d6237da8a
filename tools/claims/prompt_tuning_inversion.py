"""Does prompt tuning inversion reconstruct and edit better than its neighbors? The tiny model on held-out digits.

``python tools/claims/prompt_tuning_inversion.py`` inverts tinted digits that the model was not trained on, in groups,
by every method and setting, changes their color, and writes ``claims.json``, ``claims.png`` and ``edits.png`` of
``projects/prompt_tuning_inversion/results``. 20 steps, 10 updates a step, none stopped early. Finished arms are kept in
the work folder, so that a run that was cut off goes on where it was. Means and standard deviations are over the groups;
the methods draw nothing, but for the noise of SDEdit (seed 0).

The judges are a support vector machine for the digit and the hue for the color; the shape is the brightest channel.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from PIL import Image
from prompt_tuning_inversion_parts import arms, report

from mmplugins.prompt_tuning_inversion.pictures import strip, to_image
from mmplugins.prompt_tuning_inversion.tinted_digits.judge import DigitJudge

import sys  # isort: skip

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, origin, write_json


def measure(work_dir: Path, groups: int, images: int) -> tuple[report.Results, float]:
    """All arms on all groups, those of earlier runs read; and the seconds that they took."""
    results: report.Results = {}
    judge, seconds = None, 0.0
    for group in range(groups):
        tasks = arms.make_tasks(group, images)
        for name, config in {'unconditional': None, **arms.arms()}.items():
            file = work_dir / f'{name.replace(" ", "_")}_{group}_{images}.json'
            if not file.is_file():
                judge = judge or DigitJudge()
                start = time.time()
                result = dict(psnr=arms.unconditional(tasks)) if config is None else arms.run_arm(config, tasks, judge)
                write_json(file, dict(result, seconds=time.time() - start))
                mean = sum(result['psnr']) / images
                print(f'group {group}, {name}: {mean:.2f} dB, {time.time() - start:.0f} s', flush=True)
            results.setdefault(name, {})[group] = json.loads(file.read_text())
            seconds += results[name][group]['seconds']
    return results, seconds


def draw_edits(path: Path) -> None:
    """Strips of four edits by prompt tuning inversion and by the prompt without tuning."""
    tasks = arms.make_tasks(0, 12)[2:12:3]
    editor = arms.build('PromptTuningInversion', init='target')
    inversion = arms.invert(editor, tasks)
    prompts = [task['prompt'] for task in tasks]
    columns = {
        'image': torch.stack([task['image'] for task in tasks]),
        'autoencoder': editor.parts.decode(inversion.source),
        'eta 0': editor.reconstruct(inversion),
        **{f'eta {eta:g}': editor.edit(inversion, prompts, eta) for eta in (0.3, 0.5, 0.7)},
        'eta 1\n(no tuning)': editor.edit(inversion, prompts, 1.0),
    }
    rows = []
    for number, task in enumerate(tasks):
        labels = [task['prompt'] if label == 'image' else label for label in columns]
        pictures = [to_image(column[number]) for column in columns.values()]
        rows.append(strip(list(zip(labels, pictures, strict=True)), 96))
    sheet = Image.new('RGB', (max(row.width for row in rows), sum(row.height for row in rows)), 'white')
    for number, row in enumerate(rows):
        sheet.paste(row, (0, sum(row.height for row in rows[:number])))
    sheet.save(path, optimize=True)


def main() -> None:
    """Measure what is missing, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--groups', type=int, default=2, help='groups of images (default 2)')
    parser.add_argument('--images', type=int, default=12, help='a group (default 12)')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/claims_prompt_tuning_inversion')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/prompt_tuning_inversion/results')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results, seconds = measure(args.work_dir, args.groups, args.images)
    where = origin(seconds, 'diffusers', 'transformers', 'scikit-learn', 'mlxtend')
    claims = [dict(claim, **where) for claim in report.make_claims(results)]
    write_json(args.out / 'claims.json', claims)
    report.draw(results, args.out / 'claims.png')
    draw_edits(args.out / 'edits.png')
    for claim in claims:
        print(f'{claim["holds"]!s:6} {claim["claim"]}')


if __name__ == '__main__':
    main()
