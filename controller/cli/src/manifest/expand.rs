//! `$(NAME)` in commands, arguments and variables, as Kubernetes expands it. Pure.
//!
//! Only the container's own variables count, those before it for a variable's value; what names none stays as it is,
//! and `$$` stands for one `$`. What comes from a config or secret is known on devices only, and stays as it is.

use super::config;
use shoal_protocol::latest::EnvVar;

/// One text with the names in it replaced.
pub(super) fn expand(text: &str, env: &[EnvVar]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let name = tail.strip_prefix('(').and_then(|t| t.split_once(')'));
        if let Some(tail) = tail.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = name {
            // Of one that stands twice the last counts.
            match env.iter().rfind(|e| e.name == name && config::is_plain(e)) {
                Some(e) => out.push_str(&e.value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

/// A list of them.
pub(super) fn all(texts: &mut [String], env: &[EnvVar]) {
    for text in texts {
        *text = expand(text, env);
    }
}

/// The variables themselves, each by those before it.
pub(super) fn variables(env: &mut [EnvVar]) {
    for n in 0..env.len() {
        env[n].value = expand(&env[n].value, &env[..n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<EnvVar> {
        pairs.iter().map(|(n, v)| EnvVar::plain(*n, *v)).collect()
    }

    #[test]
    fn names_are_replaced_and_everything_else_stays() {
        let e = env(&[("A", "1"), ("B", "$(A)")]);
        for (text, expected) in [
            ("x$(A)y", "x1y"),
            ("$(A)$(B)", "1$(A)"),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
            ("$()", "$()"),
        ] {
            assert_eq!(expand(text, &e), expected, "{text}");
        }
    }

    #[test]
    fn a_variable_sees_only_those_before_it() {
        let mut e = env(&[("A", "$(B)"), ("B", "2"), ("C", "$(A)-$(B)-$(C)")]);
        variables(&mut e);
        assert_eq!(e, env(&[("A", "$(B)"), ("B", "2"), ("C", "$(B)-2-$(C)")]));
    }
}
