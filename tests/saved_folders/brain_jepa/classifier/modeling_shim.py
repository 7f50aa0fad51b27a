from brain_transformers import BrainJEPAConfig, BrainJEPAForMaskedModeling, BrainJEPAForSequenceClassification, BrainJEPAModel, ROISeriesFeatureExtractor  # noqa: F401
