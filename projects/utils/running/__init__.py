"""What a run is made of: ``tools/train.py`` and ``tools/test.py``, and a runner that survives a kill."""
