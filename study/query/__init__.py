"""Questions to a study's tables: SQL, and tables that are computed when they are asked for."""
