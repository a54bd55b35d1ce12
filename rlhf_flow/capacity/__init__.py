"""What a run will take, before it takes it: memory, disk, steps, judge calls and, by a run that is done, time."""
