"""Where text comes from: files of a source, what identifies them, their documents."""
