"""The HTTP server, who may ask it, and its pages."""
