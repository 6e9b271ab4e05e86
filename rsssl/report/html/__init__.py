"""Pages that open from the disk: the report of a sweep, and what every page shares."""
