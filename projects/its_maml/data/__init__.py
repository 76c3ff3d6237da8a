"""Data of few-shot learning: images by class from files, folders and archives, and episodes of any of them."""
