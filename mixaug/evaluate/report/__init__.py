"""Reports: numbers, then figures, pages and tables of them, then both together."""
