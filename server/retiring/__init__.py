"""Taking devices and versions of models out of use, and never while something still needs them."""
