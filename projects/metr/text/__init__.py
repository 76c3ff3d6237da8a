"""The language side: names, their vectors, and the classifier that compares with them."""
