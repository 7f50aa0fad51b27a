from brain_transformers import HarmonixSConfig, HarmonixSForMaskedModeling, HarmonixSForSequenceClassification, HarmonixSModel, T1FeatureExtractor  # noqa: F401
