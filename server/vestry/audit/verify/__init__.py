"""The verifier: checks a copy of an audit directory, or of one log, offline, with a pinned public key and nothing else.

`house.verify` is its door. It reads the copy once, in order, in memory that does not grow with the log, and changes
nothing. Nothing in the copy is believed but what the key has signed: files are bounded before they are read.
"""
