import json

import pytest
import torch

from mmplugins.metr.text.vocabulary import Vocabulary, normalize_name

TWO = {'A': ['cat', 'dog'], 'B': ['Dog', 'traffic_light']}


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('Traffic_Light', 'traffic light'),
        ('hand-bag', 'hand bag'),
        ('  tennis \t racket ', 'tennis racket'),
        ('ＴＶ', 'tv'),  # full-width letters, NFKC
        ('Straße', 'strasse'),  # casefold, not lower
        ('Mouse (computer)', 'mouse (computer)'),
        ('飞机', '飞机'),
    ],
)
def test_normalize_name(name, expected):
    assert normalize_name(name) == expected
    assert normalize_name(expected) == expected


def test_union_by_name_keeps_first_spelling_and_order():
    vocabulary = Vocabulary(TWO)
    assert vocabulary.names == ('cat', 'dog', 'traffic_light')
    assert len(vocabulary) == 3
    assert vocabulary.rows('A') == [0, 1]
    assert vocabulary.rows('B') == [1, 2]
    assert vocabulary.index('DOG') == vocabulary.index('dog') == 1


def test_labels_round_trip_through_rows():
    vocabulary = Vocabulary(TWO)
    for name, classes in TWO.items():
        back = {row: c for row, c in zip(vocabulary.rows(name), classes, strict=True)}
        assert [back[vocabulary.index(c)] for c in classes] == classes


def test_appending_a_dataset_moves_no_row():
    old = Vocabulary(TWO, keep_separate=['dog'])
    new = Vocabulary({**TWO, 'C': ['zebra', 'DOG', 'cat']}, keep_separate=['dog'])
    assert new.names[: len(old)] == old.names
    assert all(new.rows(name) == old.rows(name) for name in TWO)
    assert new.rows('C') == [4, 5, 0]


def test_annotated_mask():
    mask = Vocabulary(TWO).annotated_mask('B')
    assert mask.dtype == torch.bool
    assert mask.tolist() == [False, True, True]


def test_renamed_only_dataset_gives_the_same_vocabulary_rows_and_lookups():
    one, other = Vocabulary({'A': ['tv', 'hand bag']}), Vocabulary({'A': ['TV', 'Hand_Bag']})
    assert one.rows('A') == other.rows('A')
    assert one.lookup_names == other.lookup_names


def test_keep_separate_gives_a_row_per_dataset_with_one_embedding():
    vocabulary = Vocabulary({'A': ['oven', 'cat'], 'B': ['Oven']}, keep_separate=['oven'])
    assert vocabulary.names == ('oven (A)', 'cat', 'Oven (B)')
    assert vocabulary.lookup_names == ('oven', 'cat', 'oven')
    assert vocabulary.lookup_names[2] == 'oven'
    assert vocabulary.index('oven (b)') == 2
    with pytest.raises(KeyError, match=r'oven \(A\).*Oven \(B\)'):
        vocabulary.index('oven')


def test_alias_chain_joins_rows_under_the_last_name():
    vocabulary = Vocabulary(
        {'A': ['tvmonitor'], 'B': ['television']},
        aliases={'TVmonitor': 'television set', 'television': 'television set', 'television_set': 'TV'},
    )
    assert vocabulary.names == ('TV',)
    assert vocabulary.lookup_names == ('tv',)
    assert vocabulary.rows('A') == vocabulary.rows('B') == [0]
    assert vocabulary.index('tvmonitor') == 0


def test_an_alias_of_one_dataset():
    datasets = dict(coco=['mouse', 'cat'], objects365=['Mouse'], openimages=['Mouse', 'Computer mouse'])
    own = {'mouse': 'mouse (animal)', 'computer mouse': 'mouse'}
    vocabulary = Vocabulary(datasets, aliases=dict(openimages=own))
    assert vocabulary.names == ('mouse', 'cat', 'mouse (animal)')
    assert [vocabulary.rows(name) for name in datasets] == [[0, 1], [0], [2, 0]]
    assert vocabulary.lookup_names == ('mouse', 'cat', 'mouse (animal)')


@pytest.mark.parametrize('aliases', [dict(openimages={'dog': 'x'}), dict(nowhere={'mouse': 'x'})], ids=str)
def test_an_alias_of_a_class_that_the_dataset_has_not(aliases):
    with pytest.raises(ValueError, match='no class of dataset'):
        Vocabulary(dict(openimages=['Mouse']), aliases=aliases)


def test_written_out_and_made_again():
    """Through JSON, as a file holds it."""
    datasets = dict(a=['oven', 'TV'], b=['Oven', 'tvmonitor', 'mouse'])
    aliases = {'tvmonitor': 'tv', 'b': {'mouse': 'mouse (animal)'}}
    vocabulary = Vocabulary(datasets, aliases=aliases, keep_separate=['oven'])
    again = Vocabulary(**json.loads(json.dumps(vocabulary.to_config())))
    assert again == vocabulary
    assert again.names == ('oven (a)', 'TV', 'Oven (b)', 'mouse (animal)')
    vocabulary.to_config()['datasets'].clear()
    assert Vocabulary(**vocabulary.to_config()) == again


def test_one_bare_string_is_one_name():
    assert Vocabulary(dict(a=['oven'], b=['Oven']), keep_separate='oven').names == ('oven (a)', 'Oven (b)')
    with pytest.raises(ValueError, match=r"mmdet knows no dataset 'cow'; a single class is \('cow',\)"):
        Vocabulary(dict(farm='cow'))


def test_metainfo_is_plain_data():
    meta = Vocabulary(TWO).to_metainfo()
    assert meta['classes'] == ('cat', 'dog', 'traffic_light')
    assert meta['datasets'] == {'A': [0, 1], 'B': [1, 2]}
    assert meta['dataset_classes'] == {'A': ('cat', 'dog'), 'B': ('Dog', 'traffic_light')}


def test_equality():
    assert Vocabulary(TWO) == Vocabulary(dict(TWO))
    assert Vocabulary(TWO) != Vocabulary(TWO, keep_separate=['dog'])
    assert Vocabulary(TWO) != Vocabulary({'A': TWO['A']})
    assert Vocabulary(TWO) != 'cat'


@pytest.mark.parametrize(
    ('kwargs', 'error', 'text'),
    [
        (dict(datasets={}), ValueError, 'empty vocabulary'),
        (dict(datasets={'A': []}), ValueError, "dataset 'A'"),
        (dict(datasets={'A': ['cat', ' _ ']}), ValueError, 'blank'),
        (dict(datasets={'A': 'cat'}), ValueError, 'cat'),
        (dict(datasets={'A': ['cat', 3]}), TypeError, '3'),
        (dict(datasets={'A': ['cat', 'dog', 'Cat']}), ValueError, r"\['cat', 'Cat'\]"),
        (dict(datasets=TWO, aliases={'cat': 'dog'}), ValueError, r"'A'.*\['cat', 'dog'\]"),
        (dict(datasets=TWO, aliases={'cat': 'puss', 'puss': 'cat'}), ValueError, 'cycle: cat -> puss -> cat'),
        (dict(datasets=TWO, aliases={'Cat': 'CAT'}), ValueError, 'cycle'),
        (dict(datasets=TWO, aliases={'zebra': 'horse'}), ValueError, 'zebra'),
        (dict(datasets=TWO, keep_separate=['zebra']), ValueError, 'zebra'),
    ],
)
def test_bad_arguments(kwargs, error, text):
    with pytest.raises(error, match=text):
        Vocabulary(**kwargs)


def test_unknown_dataset_and_name():
    with pytest.raises(KeyError, match=r"'C'.*\['A', 'B'\]"):
        Vocabulary(TWO).rows('C')
    with pytest.raises(KeyError, match='zebra'):
        Vocabulary(TWO).index('zebra')
