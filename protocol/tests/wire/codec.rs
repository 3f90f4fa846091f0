//! The strict codec against hostile bytes (S15, S16), and every wire type through it and back.

use crate::common::arbitrary::{Fill, Source};
use crate::common::*;
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use shoal_protocol::codec::{CodecError, Limits, Value, decode, encode};
use shoal_protocol::envelope::{Envelope, sign};
use shoal_protocol::ids::Bytes;
use shoal_protocol::v1::*;
use shoal_protocol::verify::Expect;
use shoal_protocol::{Code, Refusal, topics::Topic};

const LIMITS: Limits = Limits::of_size(1 << 20);

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

#[test]
fn s15_everything_outside_the_strict_subset_is_malformed() {
    for (text, why) in [
        ("a2 00 01 00 02", "a duplicate key"),
        ("a2 01 01 00 02", "an unordered key"),
        ("a2 62 6161 01 61 62 02", "a longer text key before a shorter one"),
        ("01 01", "a trailing byte"),
        ("9f 01 ff", "an indefinite array"),
        ("bf 00 01 ff", "an indefinite map"),
        ("5f 41 00 ff", "an indefinite byte string"),
        ("7f 61 61 ff", "an indefinite text"),
        ("18 17", "a number not in shortest form"),
        ("19 00ff", "a number not in shortest form"),
        ("1a 0000ffff", "a number not in shortest form"),
        ("1b 00000000ffffffff", "a number not in shortest form"),
        ("58 01 00", "a length not in shortest form"),
        ("f9 3c00", "a half float"),
        ("fa 3f800000", "a float"),
        ("fb 3ff0000000000000", "a double"),
        ("f6", "null"),
        ("f7", "undefined"),
        ("f0", "a simple value"),
        ("f8 20", "a simple value of two bytes"),
        ("ff", "a lone break"),
        ("c0 00", "a tag"),
        ("1c", "a reserved length"),
        ("61 ff", "text that is not UTF-8"),
        ("", "nothing"),
        ("82 01", "a missing item"),
        ("a1 00", "a missing value"),
        ("62 61", "a cut text"),
        ("19 01", "a cut number"),
    ] {
        let error = decode::<Value>(&hex(text), LIMITS).expect_err(why);
        assert!(matches!(error, CodecError::NotStrict { .. }), "{why}: {error}");
        assert_eq!(Refusal::from(error).code, Code::Malformed, "{why}");
    }
}

#[test]
fn s15_other_spellings_of_a_struct_are_malformed() {
    let ack = Ack { counter: 5 };
    assert_eq!(encode(&ack), hex("a1 00 05"));
    assert_eq!(decode::<Ack>(&hex("a1 00 05"), LIMITS), Ok(ack));
    for (text, why) in [
        ("a1 67 636f756e746572 05", "fields by name"),
        ("81 05", "a struct as an array"),
        ("a2 00 05 01 00", "an unknown field"),
        ("a2 00 05 61 78 00", "an unknown field by name"),
        ("a0", "a missing field"),
        ("a1 00 20", "a negative counter"),
        ("a1 00 41 05", "another type"),
        ("05", "no map at all"),
    ] {
        let error = decode::<Ack>(&hex(text), LIMITS).expect_err(why);
        assert_eq!(Refusal::from(error).code, Code::Malformed, "{why}");
    }
}

#[test]
fn s15_other_spellings_of_an_enum_are_malformed() {
    let exited = Cause::Exited { code: 3 };
    assert_eq!(encode(&exited), hex("a1 00 a1 00 03"));
    assert_eq!(encode(&Cause::GuestMemory), hex("02"));
    assert_eq!(decode::<Cause>(&hex("a1 00 a1 00 03"), LIMITS), Ok(exited));
    for (text, why) in [
        ("6b 47756573744d656d6f7279", "a variant by name"),
        ("a1 66 457869746564 a1 00 03", "a struct variant by name"),
        ("82 00 a1 00 03", "the older array form"),
        ("a1 00 81 03", "a struct variant's fields as an array"),
        ("a1 02 80", "a unit variant with something in it"),
        ("18 63", "an unknown variant"),
        ("00", "a struct variant without its fields"),
    ] {
        let error = decode::<Cause>(&hex(text), LIMITS).expect_err(why);
        assert_eq!(Refusal::from(error).code, Code::Malformed, "{why}");
    }
}

#[test]
fn s15_an_empty_option_or_list_written_out_is_malformed() {
    let mut written = encode(&Requirement { key: "a".into(), operator: Operator::Exists, values: vec![] });
    assert_eq!(written, hex("a2 00 61 61 01 02"));
    written = hex("a3 00 61 61 01 02 02 80");
    assert!(matches!(
        decode::<Requirement>(&written, LIMITS),
        Err(CodecError::OtherEncoding { offset: 0, .. })
    ));
}

#[test]
fn s16_depth_and_declared_lengths_cost_nothing() {
    for (text, why) in [
        ("9b 8000000000000000", "an array of 2^63"),
        ("bb 8000000000000000", "a map of 2^63"),
        ("5b 8000000000000000", "bytes of 2^63"),
        ("7b ffffffffffffffff", "text of 2^64-1"),
        ("9a 00001001 00", "an array beyond the cap"),
        ("ba 00001001 00", "a map beyond the cap"),
        ("59 ffff 00", "bytes beyond the input"),
    ] {
        assert!(matches!(decode::<Value>(&hex(text), LIMITS), Err(CodecError::NotStrict { .. })), "{why}");
    }
    let deep = vec![0x81; 100_000];
    assert!(matches!(decode::<Value>(&deep, LIMITS), Err(CodecError::NotStrict { offset: 33, .. })));
    // The same as an envelope's payload, signed and unsigned.
    let mut fleet = Fleet::new();
    let nested = [vec![0x81; 50_000], vec![0x80]].concat();
    let bytes = sign(Kind::Snapshot, &nested, &[&key(seed::SNAPSHOT)]).unwrap();
    assert_eq!(fleet.refused(&bytes), Code::Malformed);
    assert_eq!(fleet.refused(&deep), Code::Malformed);
    let mut endless = bytes.clone();
    let at = endless.windows(3).position(|w| w == [0x59, 0xc3, 0x51]).unwrap();
    endless[at..at + 3].copy_from_slice(&[0x5b, 0x80, 0]);
    assert_eq!(fleet.refused(&endless), Code::Malformed);
    fleet.still_works();
}

#[test]
fn s16_more_than_the_cap_is_too_large() {
    let error = decode::<Value>(&[0x40; 11], Limits::of_size(10)).unwrap_err();
    assert_eq!(Refusal::from(error).code, Code::TooLarge);
}

#[test]
fn values_keep_the_order_of_their_encoding() {
    let values = [
        Value::Unsigned(0),
        Value::Unsigned(23),
        Value::Unsigned(24),
        Value::Unsigned(u64::MAX),
        Value::Negative(0),
        Value::Negative(u64::MAX),
        Value::Bytes(Bytes(vec![])),
        Value::Bytes(Bytes(vec![0xff])),
        Value::Bytes(Bytes(vec![0, 0])),
        Value::Text(String::new()),
        Value::Text("b".into()),
        Value::Text("aa".into()),
        Value::Array(vec![]),
        Value::Array(vec![Value::Unsigned(9)]),
        Value::Array(vec![Value::Unsigned(0), Value::Unsigned(0)]),
        Value::Map([(Value::Unsigned(1), Value::Bool(true))].into_iter().collect()),
        Value::Bool(false),
        Value::Bool(true),
    ];
    for pair in values.windows(2) {
        assert!(pair[0] < pair[1], "{pair:?}");
        assert!(encode(&pair[0]) < encode(&pair[1]), "{pair:?}");
    }
    let map = Value::Map(values.iter().map(|v| (v.clone(), v.clone())).collect());
    assert_eq!(decode::<Value>(&encode(&map), LIMITS), Ok(map));
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(entropy: &[u8]) {
    for fill in [Fill::Any, Fill::Full, Fill::Empty] {
        let value: T = Source::new(entropy.to_vec(), fill).invent();
        let bytes = encode(&value);
        assert_eq!(decode::<T>(&bytes, LIMITS).as_ref(), Ok(&value));
        if bytes.len() > 1 {
            assert!(decode::<T>(&bytes[..bytes.len() - 1], LIMITS).is_err(), "a cut {value:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_type_comes_back_as_it_was(entropy in proptest::collection::vec(any::<u8>(), 16..400)) {
        round_trip::<Root>(&entropy);
        round_trip::<Snapshot>(&entropy);
        round_trip::<Deployment>(&entropy);
        round_trip::<DeviceRecord>(&entropy);
        round_trip::<Token>(&entropy);
        round_trip::<Order>(&entropy);
        round_trip::<Report>(&entropy);
        round_trip::<Fact>(&entropy);
        round_trip::<Hello>(&entropy);
        round_trip::<Heartbeat>(&entropy);
        round_trip::<Ack>(&entropy);
        round_trip::<LogChunk>(&entropy);
        round_trip::<JoinFile>(&entropy);
        round_trip::<EnrollRequest>(&entropy);
        round_trip::<EnrollResponse>(&entropy);
        round_trip::<Value>(&entropy);
    }

    #[test]
    fn join_files_survive_as_text(entropy in proptest::collection::vec(any::<u8>(), 16..400)) {
        let mut join: JoinFile = Source::new(entropy, Fill::Any).invent();
        join.version = 1;
        let text = shoal_protocol::join::to_text(&join);
        prop_assert_eq!(shoal_protocol::join::from_text(&text).unwrap(), join.clone());
        let mangled = format!("Dear colleague,\r\n{}\r\nBye", text.replace('\n', "\r\n  "));
        prop_assert_eq!(shoal_protocol::join::from_text(&mangled).unwrap(), join);
    }

    #[test]
    fn any_bytes_at_all_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Envelope::parse(&bytes);
        if let Ok(value) = decode::<Value>(&bytes, LIMITS) {
            prop_assert_eq!(encode(&value), bytes.clone());
        }
        let fleet = Fleet::new();
        prop_assert!(shoal_protocol::verify(&bytes, &fleet.state, NOW, Expect::Delivered).is_err());
    }

    #[test]
    fn damaged_payloads_never_decode_to_two_spellings(
        entropy in proptest::collection::vec(any::<u8>(), 16..200), at in any::<usize>(), bit in 0..8_u32,
    ) {
        let value: Deployment = Source::new(entropy, Fill::Any).invent();
        let mut bytes = encode(&value);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(other) = decode::<Deployment>(&bytes, LIMITS) {
            prop_assert_ne!(&other, &value);
            prop_assert_eq!(encode(&other), bytes);
        }
    }
}

#[test]
fn damaged_join_files_say_what_to_do() {
    let join = full::join(&Fleet::new());
    let text = shoal_protocol::join::to_text(&join);
    assert!(text.starts_with(shoal_protocol::join::BEGIN) && text.lines().all(|l| l.len() <= 64));
    let half = &text[..text.len() / 2];
    assert!(shoal_protocol::join::from_text(half).unwrap_err().to_string().contains("copy the whole file"));
    let newer = shoal_protocol::join::to_text(&JoinFile { version: 2, ..join });
    assert!(shoal_protocol::join::from_text(&newer).unwrap_err().to_string().contains("version 2"));
}

#[test]
fn b1_a_device_reaches_only_its_own_branch() {
    let fleet = Fleet::new();
    let own = fleet.record(1).device;
    let other = key(50).public().device_id();
    for topic in Topic::ALL {
        let name = topic.of(&fleet.id, &own);
        assert_eq!(Topic::parse(&name), Some((fleet.id.clone(), own.clone(), topic)));
        assert_eq!(Topic::may_publish(own.as_str(), &name), topic.is_up());
        assert_eq!(Topic::may_publish("controller", &name), !topic.is_up());
        assert!(!Topic::may_publish(other.as_str(), &name));
        assert_eq!(Topic::may_subscribe(own.as_str(), &name), !topic.is_up());
        assert!(!Topic::may_subscribe(other.as_str(), &name));
    }
    assert!(Topic::may_subscribe(own.as_str(), &Topic::filter_device(&fleet.id, &own)));
    assert!(Topic::may_subscribe("controller", &Topic::filter_controller(&fleet.id)));
    assert!(Topic::may_subscribe(
        "controller",
        &format!("$share/api/{}", Topic::filter_controller(&fleet.id))
    ));
    let down = Topic::filter_device(&fleet.id, &own);
    for filter in [
        "#",
        "+/+/+/+/#",
        "shoal/#",
        "$SYS/#",
        &format!("shoal/v1/{}/+/down/#", fleet.id),
        &format!("$share/x/{down}"),
        &format!("shoal/v1/+/{own}/down/#"),
        &format!("shoal/v1/{}/{own}/#", fleet.id),
    ] {
        assert!(!Topic::may_subscribe(own.as_str(), filter), "{filter}");
    }
    for name in ["", "shoal/v1", "shoal/v1//x/up/hello", &format!("shoal/v1/{}/{own}/up/hello/x", fleet.id)] {
        assert_eq!(Topic::parse(name), None, "{name}");
    }
}
