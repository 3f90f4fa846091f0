//! Credentials in the file where docker, podman and skopeo keep them (`~/.docker/config.json`). Pure.

use crate::error::{Error, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
}

/// The credentials for `host` (as [`crate::Reference::host`] gives it) in a docker `config.json`; none when it has none.
pub fn credentials(json: &[u8], host: &str) -> Result<RegistryAuth> {
    let unusable =
        |why: &str| Error::Unauthorized(format!("the credentials file cannot be used for {host}: {why}"));
    let file: File = serde_json::from_slice(json).map_err(|e| unusable(&e.to_string()))?;
    let names: &[&str] = match host {
        "registry-1.docker.io" => &["docker.io", "index.docker.io", "registry-1.docker.io"],
        _ => &[host],
    };
    let found = file.auths.iter().find(|(key, _)| names.contains(&host_of(key)));
    let helper = names.iter().find_map(|n| file.cred_helpers.get(*n)).or(file.creds_store.as_ref());
    let entry = match found {
        Some((_, entry)) => entry,
        None if helper.is_some() && !file.cred_helpers.is_empty() => {
            return Err(unusable("it keeps them in a credential helper, which Shoal does not run"));
        }
        None => return Ok(RegistryAuth::Anonymous),
    };
    if entry.identitytoken.is_some() {
        return Err(unusable("it has an identity token; log in with a user and a password or access token"));
    }
    if let (Some(user), Some(password)) = (&entry.username, &entry.password) {
        return Ok(RegistryAuth::Basic(user.clone(), password.clone()));
    }
    let Some(auth) = entry.auth.as_deref().filter(|a| !a.is_empty()) else {
        return Err(unusable(
            "the entry is empty, so a credential helper has them; Shoal does not run those",
        ));
    };
    let bytes = BASE64_STANDARD.decode(auth.trim()).map_err(|_| unusable("`auth` is not base64"))?;
    let text = String::from_utf8(bytes).map_err(|_| unusable("`auth` is not text"))?;
    let (user, password) = text.split_once(':').ok_or_else(|| unusable("`auth` has no colon"))?;
    Ok(RegistryAuth::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()))
}
/// Keys are hosts, sometimes with a scheme and a path around them.
fn host_of(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_config_gives_the_credentials_of_exactly_that_host() {
        let json = br#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpwOnc="},"r.example:5000":{"username":"a","password":"b"}}}"#;
        let of = |host| credentials(json, host).unwrap();
        assert_eq!(of("registry-1.docker.io"), RegistryAuth::Basic("u".into(), "p:w".into()));
        assert_eq!(of("r.example:5000"), RegistryAuth::Basic("a".into(), "b".into()));
        assert_eq!(of("r.example"), RegistryAuth::Anonymous);
    }

    #[test]
    fn what_is_kept_elsewhere_is_said_and_not_ignored() {
        for json in [
            &br#"{"auths":{"h.x":{}},"credsStore":"desktop"}"#[..],
            br#"{"credHelpers":{"h.x":"gcloud"}}"#,
            br#"{"auths":{"h.x":{"identitytoken":"t"}}}"#,
            br#"{"auths":{"h.x":{"auth":"%%"}}}"#,
            b"[",
        ] {
            assert!(matches!(credentials(json, "h.x"), Err(Error::Unauthorized(_))));
        }
    }
}
