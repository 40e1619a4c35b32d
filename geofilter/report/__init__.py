"""Reports of a cut, as JSON, Markdown, an HTML page and a summary."""
