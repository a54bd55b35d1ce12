"""Any scorer as a server: `rlhf-flow serve`, which `scorer=remote` asks."""
