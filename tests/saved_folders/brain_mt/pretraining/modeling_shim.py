from brain_transformers import BrainMTConfig, BrainMTForMaskedModeling, BrainMTForSequenceClassification, BrainMTModel, VolumeFeatureExtractor  # noqa: F401
