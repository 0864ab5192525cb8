"""Existing flow logs, from files in folders and buckets, into a log group of the log service."""
