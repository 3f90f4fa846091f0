-- Entries are added and never changed; `head` is over the head before and the entry's bytes.
CREATE TABLE IF NOT EXISTS audit (sequence INTEGER PRIMARY KEY, entry BLOB NOT NULL, head BLOB NOT NULL) STRICT;
