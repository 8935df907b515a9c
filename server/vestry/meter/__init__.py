"""Every metric that the server has: of calls, of the record, of identity."""
