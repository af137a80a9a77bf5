"""From a request to jobs, and from latents to pictures."""
