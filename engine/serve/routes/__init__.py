"""The HTTP interface, a module for each of its parts."""
