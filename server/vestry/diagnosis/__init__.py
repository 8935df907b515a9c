"""First aid: findings about the machine and about the house, each with its mend. Nothing here changes anything."""
