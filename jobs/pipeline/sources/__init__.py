"""Where images come from: each layout of a data set behind one interface, told apart by what its URI holds."""

from jobs.pipeline.sources.opening import open_source
from jobs.pipeline.sources.source import EncodedImage, Shard, Source, Survey, address_of
from jobs.pipeline.sources.surveying import surveyed, unpacked

__all__ = ["EncodedImage", "Shard", "Source", "Survey", "address_of", "open_source", "surveyed", "unpacked"]
