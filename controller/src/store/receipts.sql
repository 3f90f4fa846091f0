-- Version 4: the newest receipt of each device, as it was carried here by hand.
CREATE TABLE IF NOT EXISTS receipts (
    device TEXT PRIMARY KEY, counter INTEGER NOT NULL, digest BLOB NOT NULL, at INTEGER NOT NULL, envelope BLOB NOT NULL
) STRICT, WITHOUT ROWID;
