"""Pages that people read: what a run found, in one HTML file each."""
