"""`make audit-demo`: a log, and what happens to whoever changes it."""
