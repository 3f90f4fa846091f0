//! Signed documents, the strict codec that carries them, and the one function that verifies them
