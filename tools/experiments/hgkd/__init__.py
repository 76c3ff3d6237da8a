"""Does a teacher help a sparse student, on digits; and what the sparse engines cost."""
