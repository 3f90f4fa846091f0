-- Version 2: devices that ask to be approved. `request` is the record that the token's key signed.
CREATE TABLE enrollments (
    device TEXT PRIMARY KEY, token BLOB NOT NULL, token_envelope BLOB NOT NULL, request BLOB NOT NULL,
    request_digest BLOB NOT NULL UNIQUE, name TEXT, state TEXT NOT NULL DEFAULT 'pending', requested_at INTEGER NOT NULL,
    decided_at INTEGER, record BLOB
) STRICT, WITHOUT ROWID;
