"""The command line: the group, and the commands that need neither Ray nor torch nor scipy."""
