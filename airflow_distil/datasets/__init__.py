"""Where rows come from and where they go: URIs, readers, stores, the log, Parquet parts, manifests."""
