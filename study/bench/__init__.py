"""`sparsing bench`, and the benchmark of the store."""
