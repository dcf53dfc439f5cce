"""From a raw plate to a prepared store: scan, mask, align, measure, split, sum up."""
