"""Figures as ratios against a peer or a baseline in the same run. `python -m bench` prints them all."""
