"""Run folders in, one static page out that compares them: ``python -m common.report``."""
