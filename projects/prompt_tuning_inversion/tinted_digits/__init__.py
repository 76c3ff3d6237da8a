"""Handwritten digits in six colors: the data, a tiny diffusion model of them (weights in ``tiny/``), and its judges."""
