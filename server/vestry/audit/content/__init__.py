"""What is kept of prompts and answers: beside the log, never in it. `bundles` says how it lies on the disk."""
