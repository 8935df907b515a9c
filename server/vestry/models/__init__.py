"""Models: the catalog, their preparation, and the engines that serve them."""
