"""What a run made, described for people and machines who have only that description."""
