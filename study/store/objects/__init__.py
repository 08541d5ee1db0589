"""Streams of rows on object stores."""
