-- The store of shoald, version 1. Documents are kept as the exact bytes that were verified.
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE roots (version INTEGER PRIMARY KEY, envelope BLOB NOT NULL) STRICT;
CREATE TABLE snapshots (
    version INTEGER NOT NULL, epoch INTEGER NOT NULL, digest BLOB NOT NULL UNIQUE, envelope BLOB NOT NULL,
    stored_at INTEGER NOT NULL, id INTEGER PRIMARY KEY AUTOINCREMENT
) STRICT;
CREATE TABLE documents (
    digest BLOB PRIMARY KEY, name TEXT NOT NULL, sequence INTEGER NOT NULL, envelope BLOB NOT NULL,
    stored_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE tokens (
    digest BLOB PRIMARY KEY, envelope BLOB NOT NULL, used INTEGER NOT NULL, stored_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE devices (
    id TEXT PRIMARY KEY, record BLOB NOT NULL, token BLOB NOT NULL, enrolled_at INTEGER NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0, last_seen INTEGER, system BLOB, report_counter INTEGER NOT NULL DEFAULT 0,
    order_counter INTEGER NOT NULL DEFAULT 0, alarms TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE TABLE certificates (
    serial TEXT PRIMARY KEY, device TEXT NOT NULL REFERENCES devices (id), not_after INTEGER NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX certificates_of_device ON certificates (device);
CREATE TABLE reports (
    device TEXT NOT NULL REFERENCES devices (id), counter INTEGER NOT NULL, digest BLOB NOT NULL,
    envelope BLOB NOT NULL, PRIMARY KEY (device, counter)
) STRICT, WITHOUT ROWID;
CREATE TABLE facts (
    device TEXT NOT NULL REFERENCES devices (id), deployment BLOB NOT NULL, container TEXT NOT NULL,
    event TEXT NOT NULL, counter INTEGER NOT NULL, envelope BLOB NOT NULL,
    PRIMARY KEY (device, deployment, container, event)
) STRICT, WITHOUT ROWID;
CREATE TABLE waves (
    deployment BLOB NOT NULL, device TEXT NOT NULL, opened_at INTEGER NOT NULL, PRIMARY KEY (deployment, device)
) STRICT, WITHOUT ROWID;
CREATE TABLE orders (
    device TEXT NOT NULL, counter INTEGER NOT NULL, not_after INTEGER NOT NULL, envelope BLOB NOT NULL,
    PRIMARY KEY (device, counter)
) STRICT, WITHOUT ROWID;
CREATE TABLE tags (
    repository TEXT NOT NULL, tag TEXT NOT NULL, digest BLOB NOT NULL, imported_at INTEGER NOT NULL,
    PRIMARY KEY (repository, tag)
) STRICT, WITHOUT ROWID;
CREATE TABLE manifests (
    digest BLOB PRIMARY KEY, media_type TEXT NOT NULL, size INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
