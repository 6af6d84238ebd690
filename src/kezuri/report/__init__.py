"""What a run found, told to people: tables, comparisons, charts and one page. Never imports torch."""
