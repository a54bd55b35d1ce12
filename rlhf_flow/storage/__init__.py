"""The run folder: tables, stages, the ledger."""
