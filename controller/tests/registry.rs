//! The registry endpoint: images in by the API, out by the OCI distribution API.

mod common;

use common::{Device, Http, Operator, Shoald};
use serde_json::json;
use shoal_protocol::ids::Digest;

const CONFIG: &[u8] = b"{}";

fn manifest(layer: &[u8]) -> Vec<u8> {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(CONFIG).to_string(), "size": CONFIG.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": Digest::of(layer).to_string(), "size": layer.len(),
        }],
    })
    .to_string()
    .into_bytes()
}

#[tokio::test]
async fn images_come_in_whole_and_go_out_in_parts() {
    let shoald = Shoald::start();
    let http = shoald.operator();
    let layer: Vec<u8> = (0..200_000_u32).flat_map(u32::to_be_bytes).collect();
    let manifest = manifest(&layer);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let upload = |bytes: Vec<u8>, digest: Digest| {
        let path = format!("/v1/images/blobs/{digest}");
        let http = &http;
        async move { http.send("POST", &path, bytes, "application/octet-stream").await.0 }
    };
    // Other bytes than announced are not kept; a manifest whose blobs are missing is not taken.
    assert_eq!(upload(b"other".to_vec(), Digest::of(&layer)).await, 422);
    let path = "/v1/images/manifests/library/app:1.0";
    assert_eq!(http.send("POST", path, manifest.clone(), media_type).await.0, 422);
    let head = format!("/v1/images/blobs/{}", Digest::of(&layer));
    assert_eq!(http.send("HEAD", &head, Vec::new(), "").await.0, 404);
    assert_eq!(upload(layer.clone(), Digest::of(&layer)).await, 201);
    assert_eq!(http.send("HEAD", &head, Vec::new(), "").await.0, 200);
    assert_eq!(upload(CONFIG.to_vec(), Digest::of(CONFIG)).await, 201);
    assert_eq!(http.send("POST", path, manifest.clone(), media_type).await.0, 200);
    assert_eq!(http.send("POST", "/v1/images/manifests/../x:1", manifest.clone(), media_type).await.0, 404);
    assert_eq!(http.send("POST", "/v1/images/manifests/A:1", manifest.clone(), media_type).await.0, 400);
    let (_, images) = http.get("/v1/images").await;
    assert_eq!(images["images"][0]["repository"], "library/app");

    // Out: by basic authentication, and by a device's certificate.
    let client = shoald.client(None);
    let url = |path: &str| format!("{}/v2/{path}", shoald.base());
    let by_tag = client.get(url("library/app/manifests/1.0")).basic_auth("shoal", Some(shoald.token()));
    let by_tag = by_tag.send().await.unwrap();
    assert_eq!(by_tag.headers()["content-type"], media_type);
    assert_eq!(by_tag.headers()["docker-content-digest"], Digest::of(&manifest).to_string().as_str());
    assert_eq!(by_tag.bytes().await.unwrap(), manifest);
    let wrong = client.get(url("")).basic_auth("shoal", Some("wrong")).send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    assert!(wrong.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"));

    let operator = Operator::found(&http).await;
    let device = Device::enroll(&shoald, &operator, &[]).await;
    let me = shoald.client(Some(&device.certificate));
    let blob = url(&format!("library/app/blobs/{}", Digest::of(&layer)));
    let whole = me.get(&blob).send().await.unwrap();
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    assert_eq!(whole.bytes().await.unwrap(), layer);
    let part = me.get(&blob).header("range", "bytes=100000-100009").send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], format!("bytes 100000-100009/{}", layer.len()).as_str());
    assert_eq!(part.bytes().await.unwrap(), layer[100_000..100_010]);
    let past = me.get(&blob).header("range", "bytes=9999999-").send().await.unwrap();
    assert_eq!(past.status(), 416);
    let head = me.head(&blob).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], layer.len().to_string().as_str());
    let by_digest = url(&format!("library/app/manifests/{}", Digest::of(&manifest)));
    assert_eq!(me.get(by_digest).send().await.unwrap().bytes().await.unwrap(), manifest);
    // A blob is no manifest, and nothing is written by this API.
    let as_manifest = url(&format!("library/app/manifests/{}", Digest::of(CONFIG)));
    assert_eq!(me.get(as_manifest).send().await.unwrap().status(), 404);
    assert_eq!(me.post(url("library/app/blobs/uploads/")).send().await.unwrap().status(), 405);
    let device_only = Http { client: me, base: shoald.base(), token: None };
    assert_eq!(device_only.get("/v1/devices").await.0, 401, "a device is no operator");
    assert_eq!(device_only.post("/v1/snapshots", &json!({})).await.0, 401);
}
