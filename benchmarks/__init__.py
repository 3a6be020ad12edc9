"""Figures of the project, each by a command; see RESULTS.md."""
