"""What is kept for how long, and what nobody needs any more."""
