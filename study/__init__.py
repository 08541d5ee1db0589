"""What is studied: the definition, the plan, the table schemas, the store, the command line.

Imports neither torch nor ray nor scipy at module level.
"""
