"""`vestry audit`: the record, its key, what can be found in it and what can be proved of it. One module a command."""
