-- Version 3: grants of secrets. Some stores of version 2 were made with it.
CREATE TABLE IF NOT EXISTS grants (
    secret BLOB NOT NULL, device TEXT NOT NULL, envelope BLOB NOT NULL, PRIMARY KEY (secret, device)
) STRICT, WITHOUT ROWID;
