"""A Vision Transformer on one device, behind one small interface."""
