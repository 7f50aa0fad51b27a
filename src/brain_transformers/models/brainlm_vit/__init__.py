"""BrainLM as a ViT masked autoencoder over the parcel x time image (`brainlm_vit_mae`)."""
