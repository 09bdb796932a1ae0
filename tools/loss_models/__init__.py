"""Models whose authors' loss is known, for tools/loss_table.py."""
