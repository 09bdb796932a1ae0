"""``python -m graph_init``."""

from graph_init.cli import main

if __name__ == "__main__":
    main()
