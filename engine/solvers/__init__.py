"""All that is known of schedulers: names, runs, levels."""
