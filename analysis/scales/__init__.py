"""Laws over runs of several sizes."""
