"""What a family of models is, a file each."""
