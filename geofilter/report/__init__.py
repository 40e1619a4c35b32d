"""Reports of a cut: one dictionary, rendered as JSON, Markdown, an HTML page and a terminal summary."""
