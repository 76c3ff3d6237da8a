"""Parts of ``tools/claims/spsa.py``: the networks that are trained, the comparison with exact attention, the claims."""
