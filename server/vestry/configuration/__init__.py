"""Reading the settings (`reading.py`), and looking at what they name: files, addresses, ports."""
