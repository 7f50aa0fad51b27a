"""BrainHarmony: tokens of fMRI and of structure fused into hub tokens."""
