"""Models taught and converted: what :mod:`engine.cli.tune` offers."""
