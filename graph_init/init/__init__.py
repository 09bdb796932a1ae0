"""Initial weights: the schemes, and the state from which a tuner starts."""
