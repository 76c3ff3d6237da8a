"""Images with the prompts of their edits: lists of them, a dataset, the data sample."""
