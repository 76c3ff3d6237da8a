"""Tables of boxes, and what is computed of them without a curve: groups, overlaps, average precision."""
