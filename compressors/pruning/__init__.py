"""What the pruning steps are made of: which channels go together, what each is worth, how many may go, and when."""
