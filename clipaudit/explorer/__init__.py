"""A run and its report in the browser, and the HTTP interface behind it."""
