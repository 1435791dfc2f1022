"""What to draw, as people and other tools write it down: the entries of a file, and the values of an entry."""
