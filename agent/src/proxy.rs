//! The HTTP proxy on the way to the controller, if there is one: `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment,
//! read for MQTT by the same rules as the HTTP client reads them for itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use rumqttc::{Proxy, ProxyAuth, ProxyType};

/// Where the proxy for this address is.
pub(crate) fn place(host: &str, port: u16) -> Option<(String, u16)> {
    let found = found(&Matcher::from_env(), host, port)?;
    place_of(&found)
}

/// What a connection through a proxy begins with.
pub(crate) struct Way {
    /// Where the proxy is.
    pub(crate) proxy: (String, u16),
    /// What it is asked, with name and password where the environment has them.
    pub(crate) request: String,
}

/// The same for who connects by hand.
pub(crate) fn way(host: &str, port: u16) -> Option<Way> {
    way_by(&Matcher::from_env(), host, port)
}

fn way_by(matcher: &Matcher, host: &str, port: u16) -> Option<Way> {
    let found = found(matcher, host, port)?;
    let credential = found.basic_auth().and_then(|header| header.to_str().ok());
    let credential = credential.map(|c| format!("Proxy-Authorization: {c}\r\n")).unwrap_or_default();
    let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{credential}\r\n");
    Some(Way { proxy: place_of(&found)?, request })
}

/// The same for the MQTT client.
pub(crate) fn mqtt(host: &str, port: u16) -> Option<Proxy> {
    mqtt_by(&Matcher::from_env(), host, port)
}

/// One that is spoken to in clear, before TLS begins through it. Another kind would be told a name and password in clear
/// that it expects behind TLS.
fn found(matcher: &Matcher, host: &str, port: u16) -> Option<Intercept> {
    let found = matcher.intercept(&format!("https://{host}:{port}").parse().ok()?)?;
    let scheme = found.uri().scheme_str().unwrap_or("http");
    if scheme != "http" {
        tracing::warn!(scheme, "the environment names a proxy of this kind; only http:// is spoken");
        return None;
    }
    Some(found)
}

fn place_of(found: &Intercept) -> Option<(String, u16)> {
    let uri = found.uri();
    Some((uri.host()?.to_owned(), uri.port_u16().unwrap_or(80)))
}

fn mqtt_by(matcher: &Matcher, host: &str, port: u16) -> Option<Proxy> {
    let found = found(matcher, host, port)?;
    let (addr, port) = place_of(&found)?;
    let auth = found.basic_auth().and_then(|header| {
        let text = STANDARD.decode(header.to_str().ok()?.strip_prefix("Basic ")?).ok()?;
        let (username, password) = std::str::from_utf8(&text).ok()?.split_once(':')?;
        Some(ProxyAuth::Basic { username: username.to_owned(), password: password.to_owned() })
    });
    Some(Proxy { ty: ProxyType::Http, auth: auth.unwrap_or(ProxyAuth::None), addr, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher() -> Matcher {
        Matcher::builder().https("http://me:s%40cret@proxy.site:3128").no("near.example,10.0.0.0/8").build()
    }

    #[test]
    fn b7_mqtt_goes_the_way_of_https_with_name_and_password() {
        let proxy = mqtt_by(&matcher(), "hub.example", 8443).unwrap();
        assert_eq!((proxy.addr.as_str(), proxy.port), ("proxy.site", 3128));
        let way = way_by(&matcher(), "hub.example", 8443).unwrap();
        assert_eq!(way.proxy, ("proxy.site".to_owned(), 3128));
        assert!(way.request.starts_with(
            "CONNECT hub.example:8443 HTTP/1.1\r\nHost: hub.example:8443\r\nProxy-Authorization: Basic "
        ));
        assert!(
            way_by(&matcher(), "[2001:db8::1]", 1).unwrap().request.starts_with("CONNECT [2001:db8::1]:1 ")
        );
        let ProxyAuth::Basic { username, password } = proxy.auth else { panic!("no credential") };
        assert_eq!((username.as_str(), password.as_str()), ("me", "s@cret"));
    }

    #[test]
    fn b7_a_proxy_of_another_kind_is_told_no_password_in_clear() {
        for kind in ["https", "socks5", "socks5h"] {
            let matcher = Matcher::builder().https(format!("{kind}://me:secret@proxy.site:3128")).build();
            assert!(mqtt_by(&matcher, "hub.example", 8443).is_none(), "{kind}");
        }
    }

    #[test]
    fn b7_what_is_near_is_reached_without_the_proxy() {
        for host in ["near.example", "hub.near.example", "10.1.2.3"] {
            assert!(mqtt_by(&matcher(), host, 8443).is_none(), "{host}");
        }
        assert!(mqtt_by(&Matcher::builder().build(), "hub.example", 8443).is_none());
    }
}
