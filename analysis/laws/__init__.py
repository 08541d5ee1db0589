"""The laws: formulas, values, derivatives, inverses, limits."""
