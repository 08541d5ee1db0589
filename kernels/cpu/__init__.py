"""Products for processors, compiled once for the processor that is there."""
