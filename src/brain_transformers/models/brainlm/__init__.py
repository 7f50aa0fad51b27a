"""BrainLM with parcel x time tokens (`brainlm_mae`)."""
