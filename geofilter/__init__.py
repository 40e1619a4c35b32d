"""geofilter: find and remove the fine-tuning rows closest to a model's toxic features."""

__version__ = "0.1.0"
