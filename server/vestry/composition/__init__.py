"""What `app` and the commands put together from the settings: the record, the directory, identity, copies, exports."""
