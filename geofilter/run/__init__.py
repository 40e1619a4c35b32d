"""The run folder: shards, scores, verdicts, and its rows read again."""
