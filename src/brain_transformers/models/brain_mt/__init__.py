"""BrainMT: 4-D BOLD volumes through convolutions, bidirectional Mamba and attention."""
