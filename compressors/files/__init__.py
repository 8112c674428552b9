"""The files that recipes end in, one reader for each: what is really inside."""
