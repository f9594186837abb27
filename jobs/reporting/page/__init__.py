"""The report's page: one file a section, each from the report's tables."""
