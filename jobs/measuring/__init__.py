"""What synthetic and scaling measure with."""
