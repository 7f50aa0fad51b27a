from brain_transformers import BrainLMViTConfig, BrainLMViTForMaskedModeling, BrainLMViTForSequenceClassification, BrainLMViTModel, ROISeriesFeatureExtractor  # noqa: F401
