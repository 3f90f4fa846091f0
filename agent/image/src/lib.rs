//! OCI images and wasm modules: bounded parsing, unpacking and inspection
