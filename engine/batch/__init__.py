"""Many edits that must end: folders and manifests, exactly-once results, processes that may die."""
