"""One module for each noun; each only translates between HTTP and its handler."""
