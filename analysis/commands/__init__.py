"""The commands on what a study means."""
