"""Models taught and converted: what ``softpaint tune`` offers."""
