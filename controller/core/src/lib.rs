//! Pure decisions of the controller: selection, waves, health gates
