"""Blocks that two or more families share: attention, transformer layers, positions, masking, pooling, heads."""
