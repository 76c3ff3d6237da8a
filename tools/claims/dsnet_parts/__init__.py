"""Parts of ``tools/claims/dsnet.py``: the networks that are trained, their data, the claims."""
