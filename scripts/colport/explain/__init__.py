"""Why a page scored: which of its patches matched which token of a query, drawn on the page."""
