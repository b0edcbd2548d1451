"""Tokenised shards to a model. Needs nothing of Spark; imports no other part of Crawlmill but its errors and YAML files."""
