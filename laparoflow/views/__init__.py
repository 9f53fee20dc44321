"""Two differently transformed views of a frame, with the exact source coordinates of every view pixel."""
