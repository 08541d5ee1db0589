"""Streams of rows in folders."""
