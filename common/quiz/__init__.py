"""Real or generated: a page for people to judge, and what their answers say."""
