"""What every plugin's command says and returns."""

import argparse

import pytest

from mmplugins.utils.verbs import run_verb


def parser_of(error: Exception | None) -> argparse.ArgumentParser:
    """A parser whose one verb raises an error, or does nothing."""

    def run(args: argparse.Namespace) -> None:
        if error:
            raise error

    parser = argparse.ArgumentParser()
    parser.add_subparsers(dest='verb', required=True).add_parser('convert').set_defaults(run=run)
    return parser


def test_success_says_nothing(capsys):
    assert run_verb(parser_of(None), ['convert']) == 0
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize('error', [ValueError('a b'), FileNotFoundError('a b'), ImportError('a b')], ids=repr)
def test_an_error_of_the_user_is_one_line(capsys, error):
    assert run_verb(parser_of(error), ['convert']) == 1
    assert capsys.readouterr() == ('', 'convert: a b\n')


@pytest.mark.parametrize('error', [RuntimeError('a b'), KeyError('a b')], ids=repr)
def test_an_error_of_ours_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run_verb(parser_of(error), ['convert'])


@pytest.mark.parametrize('error', [RuntimeError('a b'), KeyError('a b')], ids=repr)
def test_a_plugin_adds_its_own_errors(capsys, error):
    assert run_verb(parser_of(error), ['convert'], also=(type(error),)) == 1
    assert capsys.readouterr().err == 'convert: a b\n'
