"""Masked reconstruction: the objective of the masked autoencoders."""
