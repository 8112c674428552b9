"""A build, from a pushed model to variants: recipes applied, files judged for each profile, the best chosen."""
