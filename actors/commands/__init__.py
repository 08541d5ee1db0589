"""The commands that train, measure and generate."""
