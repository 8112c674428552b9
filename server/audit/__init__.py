"""Who changed what: an append-only log, chained by hashes, written in the transaction of the change."""
