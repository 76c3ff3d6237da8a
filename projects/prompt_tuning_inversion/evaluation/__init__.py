"""How near edits are to image and prompt, in numbers and in pictures."""
