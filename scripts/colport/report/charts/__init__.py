"""Charts: drawn as SVG when the report is made, each with the table behind it."""
