"""How a study stands, from its store alone; as a table, and as Prometheus metrics."""
