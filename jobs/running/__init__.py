"""Around any run: its arguments, Ray, its output and what is told of it."""
