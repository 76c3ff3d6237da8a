"""Helpers that no host codebase has; plugins may use them, they never use a plugin."""
