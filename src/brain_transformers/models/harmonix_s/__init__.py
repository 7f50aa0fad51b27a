"""Harmonix-S: the T1 encoder of BrainHarmony, a 3-D masked autoencoder."""
