"""The page: what its button does, by gradio's own client and in a browser."""

import shutil

import pytest
import torch
from PIL import Image

from mmplugins.prompt_tuning_inversion.__main__ import build_parser, main
from mmplugins.prompt_tuning_inversion.pictures import read_image
from mmplugins.prompt_tuning_inversion.verbs.app import CSS, Page, build_app

FAST = ['--steps', '4', '--inner', '2', '--guidance', '3']


@pytest.fixture
def args(folder):
    return build_parser().parse_args(['app', '--model', str(folder), *FAST])


@pytest.fixture
def photo(tmp_path):
    torch.manual_seed(3)
    Image.fromarray((torch.rand(20, 30, 3) * 255).byte().numpy()).save(tmp_path / 'photo.png')
    return str(tmp_path / 'photo.png')


@pytest.fixture
def served(args):
    """The page, and its address."""
    pytest.importorskip('gradio', reason='needs pip install -e ".[pti,app]"')
    app = build_app(args)
    _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, css=CSS)
    yield address
    app.close()


def test_sliders_and_prompts_edit_one_inversion(args, photo, monkeypatch):
    page, steps = Page(args), []
    inputs = dict(path=photo, source_prompt='', method='pti', progress=lambda *call: steps.append(call))
    _, recon, said = page.edit(prompt='a red three', eta=0.5, guidance=3.0, **inputs)
    assert said == 'inverted with 8 updates'
    assert steps == [((n, 4), what) for what in ('inversion', 'tuning') for n in range(1, 5)]
    monkeypatch.setattr(torch.optim.Adam, 'step', lambda self: pytest.fail('an update'))
    pictures = []
    for prompt, eta, guidance in (('a red three', 0.5, 3.0), ('a red three', 0.9, 3.0), ('a blue one', 0.9, 9.0)):
        edited, again, said = page.edit(prompt=prompt, eta=eta, guidance=guidance, **inputs)
        assert said == 'inversion from the cache' and again.tobytes() == recon.tobytes()
        pictures.append(edited.tobytes())
    assert len(set(pictures)) == 3


def test_it_edits_as_the_command_does(args, photo, folder, tmp_path):
    edited, recon, _ = Page(args).edit(photo, 'a red three', '', 'pti', 0.7, 3.0, lambda *_: None)
    out = tmp_path / 'out'
    command = ['edit', '--image', photo, '--prompt', 'a red three', '--model', str(folder), *FAST, '--eta', '0.7']
    assert main([*command, '--out', str(out)]) == 0
    assert edited.tobytes() == read_image(out / 'edit_eta0.70.png').tobytes()
    assert recon.tobytes() == read_image(out / 'recon.png').tobytes()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(path=None), 'an image and the prompt of the edit are needed'),
        (dict(prompt=' '), 'an image and the prompt of the edit are needed'),
        (dict(method='null-text'), 'needs a prompt that says what is in the image'),
        (dict(eta=2.0), 'eta must be from 0'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_what_is_missing_is_said(args, photo, change, message):
    inputs = dict(path=photo, prompt='a', source_prompt='', method='pti', eta=0.5, guidance=3.0, progress=print)
    with pytest.raises(ValueError, match=message):
        Page(args).edit(**{**inputs, **change})


def test_it_needs_the_cache_and_gradio(args, monkeypatch, capsys):
    import sys

    args.no_cache = True
    with pytest.raises(ValueError, match='leave --no-cache out'):
        Page(args)
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert main(['app']) == 1
    assert 'pip install --no-build-isolation -e ".[pti,app]"' in capsys.readouterr().err


@pytest.mark.slow
def test_the_button_by_gradios_client(served, photo):
    client = pytest.importorskip('gradio_client')
    inputs = dict(image=client.handle_file(photo), prompt='a red three', source_prompt='', method='pti', history=[])
    page = client.Client(served, verbose=False)
    edited, recon, said, history = page.predict(**inputs, eta=0.5, guidance=3, api_name='/edit')
    assert read_image(edited).size == read_image(recon).size == (24, 16)
    assert said == 'inverted with 8 updates'
    assert [entry['caption'] for entry in history] == ['a red three (pti, eta 0.5, guidance 3)']
    with pytest.raises(Exception, match='an image and the prompt of the edit are needed'):
        page.predict(**{**inputs, 'prompt': ''}, eta=0.5, guidance=3, api_name='/edit')


@pytest.mark.slow
def test_an_image_is_edited_in_a_browser(served, photo):
    api = pytest.importorskip('playwright.sync_api', reason='needs pip install playwright')
    chromium = shutil.which('chromium') or pytest.skip('needs chromium')
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(served)
        page.get_by_label('what the edit should show').wait_for()
        page.set_input_files('input[type=file] >> nth=0', photo)
        page.get_by_label('what the edit should show').fill('a red three')
        page.get_by_role('button', name='Edit', exact=True).click()
        page.get_by_text('inverted with 8 updates').wait_for()
        page.get_by_text('a red three (pti, eta 0.5, guidance 3)').first.wait_for()
        shown = page.locator('.image-frame img').evaluate_all('all => all.map(each => each.naturalWidth)')
        assert shown == [30, 24, 24]  # image, edit, reconstruction
        slider = page.get_by_role('slider').first
        slider.focus()
        slider.press('ArrowRight')
        slider.dispatch_event('pointerup')
        page.get_by_text('inversion from the cache').wait_for()
        page.get_by_text('eta 0.55').first.wait_for()
        browser.close()
