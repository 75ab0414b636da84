"""What a run is shown by: the report card, comparisons, plots."""
