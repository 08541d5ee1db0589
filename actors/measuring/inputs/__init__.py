"""What is measured: models from folders, text from files."""
