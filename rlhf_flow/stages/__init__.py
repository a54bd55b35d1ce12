"""The stages of a round, each committed to the ledger."""
