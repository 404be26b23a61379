"""Images that are alike in one respect: head indexes, queries, contact sheets, duplicates."""
