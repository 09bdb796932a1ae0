"""What is differentiated: the lowered forward graph with its loss, and its batches."""
