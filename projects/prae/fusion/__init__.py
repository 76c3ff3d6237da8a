"""From the boxes of several detectors to one table: the heads, and what is around them."""
