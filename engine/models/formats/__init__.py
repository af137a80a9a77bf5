"""What people have on disk, and how it is loaded."""
