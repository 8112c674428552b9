"""Keras models, from the zip archive of Keras 3 or the HDF5 file of before: the gates, and the network by torch."""
