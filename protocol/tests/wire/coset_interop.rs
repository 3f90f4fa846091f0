//! The envelope is COSE (RFC 9052): `coset` reads and verifies what we sign, and we what it signs in our profile.

use crate::common::*;
use coset::{
    CborSerializable, CoseSign, CoseSignBuilder, CoseSignatureBuilder, HeaderBuilder, RegisteredLabel,
    TaggedCborSerializable, iana,
};
use shoal_protocol::envelope::{Envelope, content_type, identity};
use shoal_protocol::v1::*;
use shoal_protocol::verify::{Expect, Standing};
use shoal_protocol::{Code, Es256Signer, Signer, codec};

fn verify_ed25519(key: &Key, signature: &[u8], message: &[u8]) -> Result<(), ed25519_dalek::SignatureError> {
    let public = ed25519_dalek::VerifyingKey::from_bytes(key.public.0.as_slice().try_into().unwrap())?;
    public.verify_strict(message, &ed25519_dalek::Signature::from_slice(signature)?)
}

#[test]
fn coset_decodes_and_verifies_what_we_sign() {
    let fleet = Fleet::new();
    let (bytes, digest) = seal(&full::deployment(&fleet.id), &[seed::DEPLOY, seed::WEB]);
    let sign = CoseSign::from_tagged_slice(&bytes).unwrap();
    assert_eq!(
        sign.protected.header.content_type,
        Some(RegisteredLabel::Text("application/vnd.shoal.deployment.v1+cbor".into()))
    );
    assert!(sign.unprotected.is_empty());
    let payload = sign.payload.clone().unwrap();
    assert_eq!(identity(Kind::Deployment, &payload), digest);
    for (which, seed) in [seed::DEPLOY, seed::WEB].into_iter().enumerate() {
        let public = key(seed).public();
        let header = &sign.signatures[which];
        assert_eq!(header.protected.header.alg, Some(coset::Algorithm::Assigned(iana::Algorithm::EdDSA)));
        assert_eq!(header.unprotected.key_id, public.kid());
        sign.verify_signature(which, &[], |signature, message| verify_ed25519(&public, signature, message))
            .unwrap();
    }
    assert_eq!(sign.clone().to_tagged_vec().unwrap(), bytes, "coset writes the same bytes");
    assert_ne!(sign.to_vec().unwrap(), bytes, "the tag is part of the profile");
}

#[test]
fn coset_verifies_our_es256() {
    let pkcs8 = ring::signature::EcdsaKeyPair::generate_pkcs8(
        &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &ring::rand::SystemRandom::new(),
    )
    .unwrap();
    let signer = Es256Signer::from_pkcs8(pkcs8.as_ref()).unwrap();
    let fleet = Fleet::new();
    let (bytes, _) = shoal_protocol::envelope::seal_document(&fleet.report(1), &[&signer]).unwrap();
    let sign = CoseSign::from_tagged_slice(&bytes).unwrap();
    assert_eq!(
        sign.signatures[0].protected.header.alg,
        Some(coset::Algorithm::Assigned(iana::Algorithm::ES256))
    );
    sign.verify_signature(0, &[], |signature, message| {
        let public = signer.key().public.0;
        ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, public)
            .verify(message, signature)
    })
    .unwrap();
}

fn coset_signed(document: &Deployment) -> CoseSignBuilder {
    let signer = key(seed::DEPLOY);
    let signature = CoseSignatureBuilder::new()
        .protected(HeaderBuilder::new().algorithm(iana::Algorithm::EdDSA).build())
        .unprotected(HeaderBuilder::new().key_id(signer.public().kid().to_vec()).build())
        .build();
    CoseSignBuilder::new()
        .protected(HeaderBuilder::new().content_type(content_type(Kind::Deployment)).build())
        .payload(codec::encode(document))
        .add_created_signature(signature, &[], |message| signer.sign(message).unwrap())
}

#[test]
fn we_verify_what_coset_signs_in_the_profile() {
    let mut fleet = Fleet::new();
    let document = fleet.deployment("app", 1);
    let bytes = coset_signed(&document).build().to_tagged_vec().unwrap();
    assert_eq!(bytes, seal(&document, &[seed::DEPLOY]).0, "the same bytes as ours");
    let digest = Envelope::parse(&bytes).unwrap().identity();
    let snapshot = fleet.list(entry("app", revision(1, digest)));
    fleet.accept(&snapshot).unwrap();
    assert_eq!(fleet.accept(&bytes).unwrap().standing(), Standing::New);
}

#[test]
fn valid_cose_outside_the_profile_is_malformed() {
    let mut fleet = Fleet::new();
    let document = fleet.deployment("app", 1);
    let untagged = coset_signed(&document).build().to_vec().unwrap();
    assert_eq!(fleet.refused(&untagged), Code::Malformed);
    let crowded = coset_signed(&document).unprotected(HeaderBuilder::new().key_id(vec![1]).build()).build();
    assert_eq!(fleet.refused(&crowded.to_tagged_vec().unwrap()), Code::Malformed);
    let number = coset_signed(&document)
        .protected(HeaderBuilder::new().content_format(iana::CoapContentFormat::Cbor).build())
        .build();
    assert_eq!(fleet.refused(&number.to_tagged_vec().unwrap()), Code::Malformed);
    let detached = CoseSign { payload: None, ..coset_signed(&document).build() };
    assert_eq!(fleet.refused(&detached.to_tagged_vec().unwrap()), Code::Malformed);
    let mut bare = coset_signed(&document).build();
    bare.signatures.clear();
    assert_eq!(fleet.refused(&bare.to_tagged_vec().unwrap()), Code::Malformed);
    let mut many = coset_signed(&document).build();
    many.signatures = vec![many.signatures[0].clone(); 9];
    assert_eq!(fleet.refused(&many.to_tagged_vec().unwrap()), Code::Malformed);
    let expect = Expect::Only(Kind::Deployment);
    let mut long = coset_signed(&document).build();
    long.signatures[0].unprotected = HeaderBuilder::new().key_id(vec![0; 9]).build();
    assert_eq!(fleet.refused_as(&long.to_tagged_vec().unwrap(), expect), Code::Malformed);
    fleet.still_works();
}
