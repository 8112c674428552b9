"""All that helps to find out what is wrong with a device, gathered by a process of its own that exits."""
