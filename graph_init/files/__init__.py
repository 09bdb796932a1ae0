"""Files: how they are opened for reading, and those that are this program's own for writing."""
