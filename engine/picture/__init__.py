"""Pixels only, numpy in and out: files, geometry, strength maps, fills, fade, paste, colour."""
