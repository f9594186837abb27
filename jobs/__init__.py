"""What a user submits, and the pipeline and reports behind it."""
