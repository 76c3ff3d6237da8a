"""The frozen model: what a diffusers folder holds, its parts, its noise schedule, and what evaluating it costs."""
