"""One module for each verb of ``python -m mmplugins.prae``, with ``add_arguments`` and ``run``."""
