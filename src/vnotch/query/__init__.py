"""Questions over flow logs: files in folders and buckets and the messages of log groups as one SQL table."""
