"""Metrics of a round: win rates, intransitivity, agreement, mismatch, alarms."""
