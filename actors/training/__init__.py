"""Training one run: the shard, its engine, checkpoints, loss guard, fence."""
