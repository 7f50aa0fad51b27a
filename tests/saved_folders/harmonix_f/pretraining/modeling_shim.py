from brain_transformers import HarmonixFConfig, HarmonixFFeatureExtractor, HarmonixFForMaskedModeling, HarmonixFForSequenceClassification, HarmonixFModel  # noqa: F401
