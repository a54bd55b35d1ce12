"""Matrix games with exact solutions, and an engine, learner and scorer for them."""
