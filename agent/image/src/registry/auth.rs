//! Credentials, and the one place that decides where they may travel (M6): the registry itself, or a token service on
//! the same host or one that the operator named. Pure.

use http_auth::ChallengeParser;
use reqwest::Url;

/// What a registry asks for in its 401.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password, to itself.
    Basic,
    /// A token from this service.
    Bearer { realm: Url, service: Option<String> },
}

/// The challenge in these `WWW-Authenticate` headers; a token service before a password.
pub(super) fn challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = false;
    for header in headers {
        for challenge in ChallengeParser::new(header).flatten() {
            let param = |name: &str| {
                challenge
                    .params
                    .iter()
                    .find(|(k, _)| k.eq_ignore_ascii_case(name))
                    .map(|(_, v)| v.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = param("realm").and_then(|r| Url::parse(&r).ok())
            {
                return Some(Challenge::Bearer { realm, service: param("service") });
            }
            basic |= challenge.scheme.eq_ignore_ascii_case("basic");
        }
    }
    basic.then_some(Challenge::Basic)
}

/// Whether credentials meant for `registry` may be shown to the token service at `realm`.
pub(super) fn may_see_credentials(registry: &Url, realm: &Url, named: &[String]) -> bool {
    let (Some(home), Some(host)) = (registry.host_str(), realm.host_str()) else { return false };
    let downgraded = registry.scheme() == "https" && realm.scheme() != "https";
    let docker_hub = home == "registry-1.docker.io" && host == "auth.docker.io";
    !downgraded && (home == host || docker_hub || named.iter().any(|n| n == host))
}

/// Whether `url` may be asked at all in the name of `registry`: encrypted, or on a plain registry's own host or loopback.
pub(super) fn may_ask(registry: &Url, url: &Url) -> bool {
    match url.scheme() {
        "https" => true,
        "http" => registry.scheme() == "http" && (registry.host_str() == url.host_str() || is_loopback(url)),
        _ => false,
    }
}

/// Whether both are one server.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

/// Whether `url` names this machine itself.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost" | "[::1]") => true,
        Some(host) => host.parse::<std::net::Ipv4Addr>().is_ok_and(|a| a.is_loopback()),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn m6_credentials_stay_with_the_registrys_host() {
        let named = ["login.example".to_owned()];
        for (registry, realm, may) in [
            ("https://r.example/v2/", "https://r.example/token", true),
            ("https://r.example/v2/", "https://r.example:8443/token", true),
            ("https://r.example/v2/", "http://r.example/token", false),
            ("https://r.example/v2/", "https://evil.example/token", false),
            ("https://r.example/v2/", "https://r.example.evil.example/token", false),
            ("https://r.example/v2/", "https://r.example@evil.example/token", false),
            ("https://r.example/v2/", "https://login.example/token", true),
            ("https://registry-1.docker.io/v2/", "https://auth.docker.io/token", true),
            ("https://r.example/v2/", "https://auth.docker.io/token", false),
        ] {
            assert_eq!(may_see_credentials(&url(registry), &url(realm), &named), may, "{registry} {realm}");
        }
    }

    #[test]
    fn m6_nothing_is_asked_in_the_clear_for_an_encrypted_registry() {
        let secure = url("https://r.example/");
        let plain = url("http://127.0.0.1:5000/");
        assert!(may_ask(&secure, &url("https://cdn.example/x")));
        for bad in ["http://r.example/x", "http://127.0.0.1/x", "file:///etc/passwd", "ftp://r.example/x"] {
            assert!(!may_ask(&secure, &url(bad)), "{bad}");
        }
        assert!(may_ask(&plain, &url("http://127.0.0.1:6000/x")));
        assert!(!may_ask(&plain, &url("http://10.0.0.1/x")));
    }

    #[test]
    fn challenges_are_read_and_the_token_service_goes_first() {
        let bearer =
            r#"Basic realm="x", Bearer realm="https://a.example/t",service="s",scope="repository:evil:push""#;
        let expected = Challenge::Bearer { realm: url("https://a.example/t"), service: Some("s".into()) };
        assert_eq!(challenge([bearer].into_iter()), Some(expected));
        assert_eq!(challenge([r#"Basic realm="x""#].into_iter()), Some(Challenge::Basic));
        assert_eq!(challenge(["Bearer realm=\"no url\"", "\u{1}"].into_iter()), None);
    }
}
