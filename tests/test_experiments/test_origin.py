"""Where a number is said to be from."""

import subprocess

from experiments.frame import origin


def test_commit_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, 'ROOT', tmp_path)
    assert origin.commit() is None
    author = ('-c', 'user.name=a', '-c', 'user.email=a@b')
    for words in (('init', '-q'), (*author, 'commit', '-q', '--allow-empty', '-m', 'one'), ('tag', 'v1')):
        subprocess.run(['git', '-C', tmp_path, *words], check=True)
    short = subprocess.check_output(['git', '-C', tmp_path, 'rev-parse', '--short', 'HEAD'], text=True).strip()
    assert origin.commit() == short
    (tmp_path / 'file').touch()
    assert origin.commit() == short  # of no matter: git does not know it
    subprocess.run(['git', '-C', tmp_path, 'add', 'file'], check=True)
    assert origin.commit() == f'{short}-dirty'


def test_no_git_is_no_commit(monkeypatch):
    monkeypatch.setenv('PATH', '')
    assert origin.commit() is None
