"""Questions to devices: the API writes them down, the delivery asks and takes the answers in, the API reads those."""
