"""Records for other systems: their formats, and the workers that send them on as they are written."""
