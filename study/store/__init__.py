"""The result store: one folder per study, of Arrow data that any reader opens without us."""
