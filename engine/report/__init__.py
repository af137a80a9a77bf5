"""Pages and sheets that show results."""
