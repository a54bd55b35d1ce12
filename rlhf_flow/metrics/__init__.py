"""What is computed about a round: win rates, intransitivity, agreement, alarms."""
