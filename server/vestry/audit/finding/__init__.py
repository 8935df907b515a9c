"""Finding records in a log: reading while it is written to, filters, and an index that is never the truth."""
