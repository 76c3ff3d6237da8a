# R-MAML on real drawings of Omniglot at 28x28 (tests/data/omniglot), 5-way 1-shot: the baseline of the config its-maml_….
# Small: 1 process x 4 tasks, 400 updates, a few minutes on one CPU core.
_base_ = './_base_/omniglot28_small.py'
