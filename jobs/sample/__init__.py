"""The bundled sample: handwritten digits as JPEGs, and a small ViT trained on other digits of the same data set."""
