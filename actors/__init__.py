"""Who does the work on Ray: training shards, measurer, controller; model, data, checkpoints."""
