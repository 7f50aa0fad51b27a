from brain_transformers import BrainLMConfig, BrainLMForMaskedModeling, BrainLMForSequenceClassification, BrainLMModel, ROISeriesFeatureExtractor  # noqa: F401
