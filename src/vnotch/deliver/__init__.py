"""Getting batches of records to where they belong: a durable spool, then one file per destination."""
