"""What makes a network quicker without a change of its pixels, wrapped round it on request."""
