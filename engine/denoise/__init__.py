"""The one loop and what it asks of jobs and strategies."""
