"""Matrix games with exact solutions: engine, learner and scorer of a tabular policy."""
