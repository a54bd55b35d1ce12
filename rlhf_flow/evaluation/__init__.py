"""Evaluation around the loop: policies against each other, public benchmarks, and scorers against labels."""
