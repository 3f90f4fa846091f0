//! Pure decisions of a device: what to persist, what to do next, when to look again
