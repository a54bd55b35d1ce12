"""The labelling page for annotators: `rlhf-flow label`, for runs with `scorer=human`."""
