"""Encoded images in, prediction rows out: sources, decode and the predictions sink, as Ray Data stages."""
