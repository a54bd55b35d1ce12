"""Files, processes, the machine, secrets: nothing about models."""
