"""The process that stays: connection, deployments, transfers, spool. Imports no numpy and no interpreter."""
