//! Fixed layouts that agent, guard and runner exchange
