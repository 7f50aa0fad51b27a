"""Brain-JEPA (`brain_jepa`): latent prediction on parcel x time tokens."""
