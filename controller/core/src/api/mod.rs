//! The JSON of the controller's HTTP API: what each endpoint takes and gives. No logic beyond conversion.
//!
//! | endpoint | who | takes | gives |
//! | --- | --- | --- | --- |
//! | `GET /v1/version` | anyone | – | [`Version`] |
//! | `GET /v1/ca` | anyone (pin it by fingerprint) | – | [`Ca`] |
//! | `POST /v1/login` | operator | – | [`Login`] |
//! | `GET /v1/trust` | operator or device | – | [`Trust`] |
//! | `POST /v1/trust/roots` | operator | [`PostRoot`] | [`RootAccepted`] |
//! | `POST /v1/snapshots` | operator | [`PostSnapshot`] | [`SnapshotAccepted`], or 409 `conflict` with [`ApiError::current`] |
//! | `GET /v1/documents/{digest}` | operator | – | the envelope's bytes, `application/octet-stream` |
//! | `POST /v1/grants` | operator | [`PostGrants`] | [`GrantsAccepted`] |
//! | `GET /v1/grants/{secret}` | operator | – | [`GrantList`] of the revision of this digest |
//! | `GET /v1/records` | operator | – | [`RecordList`] |
//! | `POST /v1/plan` | operator | [`PlanRequest`] | [`Plan`] |
//! | `POST /v1/tokens` | operator | [`PostToken`] | [`TokenAccepted`] |
//! | `GET /v1/tokens` | operator | – | [`TokenList`] |
//! | `POST /v1/enroll` | holder of a token | strict CBOR `EnrollRequest` | strict CBOR `EnrollResponse` |
//! | `GET /v1/enrollments` | operator | – | [`EnrollmentList`] |
//! | `GET /v1/enrollments/{device}` | operator | – | [`Enrollment`] with the envelopes to verify |
//! | `POST /v1/enrollments/{device}/approve` | operator | [`PostRecord`] | [`EnrollmentDecided`] |
//! | `POST /v1/enrollments/{device}/deny` | operator | – | [`EnrollmentDecided`] |
//! | `POST /v1/renew` | device, by its certificate; by its identity key alone when that expired | DER certificate request | strict CBOR `EnrollResponse` |
//! | `GET /v1/devices?selector=k=v,k2!=v` | operator | – | [`DeviceList`] |
//! | `GET /v1/devices/{id}` | operator | – | [`Device`] with its pods and refusals |
//! | `GET /v1/devices/{id}/record` | operator | – | [`DeviceRecord`] |
//! | `POST /v1/devices/{id}/record` | operator | [`PostRecord`] | [`RecordAccepted`] |
//! | `POST /v1/devices/{id}/decommission` | operator | [`PostRecord`] with a record that says so | [`Revoked`] |
//! | `POST /v1/devices/{id}/revoke` | operator | – | [`Revoked`] |
//! | `POST /v1/devices/{id}/orders` | operator | [`PostOrder`] | [`OrderAccepted`] |
//! | `GET /v1/deployments` | operator | – | [`DeploymentList`] |
//! | `GET /v1/deployments/{name}` | operator | – | [`Deployment`] with its devices |
//! | `GET /v1/pods?device=&deployment=` | operator | – | [`PodList`] |
//! | `GET /v1/refusals?device=` | operator | – | [`RefusalList`] |
//! | `GET /v1/audit?after=N&limit=M` | operator | – | [`AuditPage`] |
//! | `POST /v1/audit` | operator | [`PostAudit`] | [`AuditHead`] |
//! | `GET /v1/logs/{device}/{deployment}?container=&tail=&follow=SECONDS` | operator | – | JSON lines of [`LogEvent`], `application/x-ndjson` |
//! | `HEAD /v1/images/blobs/{digest}` | operator | – | 200 when it is there, else 404 |
//! | `POST /v1/images/blobs/{digest}` | operator | the blob | 201 |
//! | `POST /v1/images/manifests/{repository}:{tag}` | operator | the manifest, its media type as `Content-Type` | [`ImageAccepted`] |
//! | `GET /v1/images` | operator | – | [`ImageList`] |
//! | `GET`, `HEAD /v2/…` | operator (basic, user `shoal`, password token) or device | – | OCI distribution, read only |
//!
//! Operators send `Authorization: Bearer TOKEN`. Every error is an [`ApiError`] with a status of 4xx or 5xx.
//! Times are seconds since 1970 (UTC). Unknown fields are ignored by clients and refused by the controller.

mod audit;
mod devices;
mod images;
mod pods;
mod rollouts;
mod text;
mod trust;

pub use audit::{AuditHead, AuditPage, PostAudit};
pub use devices::{Device, DeviceList, DeviceState, System};
pub use images::{Image, ImageAccepted, ImageList, LogEvent};
pub use pods::{Cause, Compiled, Container, Phase, Pod, PodList, Refusal, RefusalList, Revision};
pub use rollouts::{
    Deployment, DeploymentDevice, DeploymentList, DeviceRollout, RolloutCounts, RolloutState,
};
pub use text::{ApiError, Base64, Ca, Controller, DigestText, Login, PublicKey, UnknownValue, Version};
pub use trust::{
    DeviceRecord, Enrollment, EnrollmentDecided, EnrollmentList, EnrollmentState, GrantList, GrantsAccepted,
    OrderAccepted, Plan, PlanRequest, PlannedDevice, PostGrants, PostOrder, PostReceipt, PostRecord,
    PostRoot, PostSnapshot, PostToken, ReceiptAccepted, RecordAccepted, RecordList, Revoked, RootAccepted,
    SignedRecord, SnapshotAccepted, SnapshotRef, Token, TokenAccepted, TokenList, Trust,
};
