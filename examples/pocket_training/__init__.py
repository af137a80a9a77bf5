"""The stages of ``examples/train_pocket.py``."""
