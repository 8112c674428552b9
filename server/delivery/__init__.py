"""Delivery: answers what devices ask, and sends blocks of objects, once for all who listen and then to each alone."""
