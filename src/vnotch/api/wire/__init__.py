"""The wire protocols, driven by botocore service models: one parser and one serialiser each, none per operation."""
