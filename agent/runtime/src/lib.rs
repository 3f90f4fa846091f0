//! The CRI verbs and states over guard: images, pods, containers, logs
