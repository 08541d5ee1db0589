"""Durable files, objects on object stores, and cells that are replaced atomically."""
