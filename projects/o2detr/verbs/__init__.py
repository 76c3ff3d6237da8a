"""What `python -m mmplugins.o2detr` does: checking, detecting in large pictures, diagnosing, exporting, submitting."""
