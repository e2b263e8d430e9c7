use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::Mark;
use crate::model::{
    BackendId, ConfigHash, Epoch, FlowId, Incarnation, NodeId, PathId, Priority, Role, ServiceId,
};
use crate::wire::heartbeat::Echo;
use crate::wire::parcel::Parcel;
use crate::wire::replication::{
    AdminState, FlowRecord, HandoverCause, HealthRecord, Hello, Item, MAX_BATCH, NatKey, NatRecord,
    Position, StickKey, StickRecord,
};
use crate::wire::statement::{Addition, Presence, Said, Stamp, Statement};

fn heartbeat() -> Heartbeat {
    Heartbeat {
        path: PathId(1),
        path_sequence: 300,
        role: Role::Master,
        epoch: Epoch(7),
        priority: Priority(150),
        interval: Duration::from_millis(100),
        config_hash: ConfigHash(0x1122_3344_5566_7788),
        hears: Some(Incarnation(0xabcd)),
        ownerships: 2,
        in_sync: true,
        resigns: false,
        relays: true,
        left: 300,
        answer: false,
        sent_at: 1_000_000_000,
        echo: Some(Echo {
            sent_at: 5,
            held: 70_000,
        }),
    }
}

fn greatest_heartbeat() -> Heartbeat {
    Heartbeat {
        path: PathId(255),
        path_sequence: u64::MAX,
        role: Role::Fault,
        epoch: Epoch(u64::MAX),
        priority: Priority(255),
        interval: Duration::MAX,
        config_hash: ConfigHash(u64::MAX),
        hears: Some(Incarnation(u128::MAX)),
        ownerships: u32::MAX,
        in_sync: true,
        resigns: true,
        relays: true,
        left: u32::MAX,
        answer: true,
        sent_at: u64::MAX,
        echo: Some(Echo {
            sent_at: u64::MAX,
            held: u64::MAX,
        }),
    }
}

/// One of each shape, with the bytes that it must have.
fn golden() -> Vec<(Frame, &'static str)> {
    let v4 = "192.0.2.7:40000".parse().unwrap();
    let v6 = "[2001:db8::7]:40000".parse().unwrap();
    let position = Position {
        epoch: Epoch(7),
        sequence: 251,
    };
    let record = |client| FlowRecord {
        client,
        service: ServiceId(1),
        backend: BackendId(2),
        since_unix_ms: 1_800_000_000_000,
        up: 3,
        down: 4,
    };
    vec![
        (
            Frame::Hello(Hello {
                protocol: 1,
                node: NodeId::Second,
                incarnation: Incarnation(0xabcd),
                config_hash: ConfigHash(5),
            }),
            "060002000101fbcdab05",
        ),
        (Frame::Ack(position), "0600020107fbfb00"),
        (
            Frame::HandoverRequest(HandoverCause::Operator),
            "0600020200",
        ),
        (
            Frame::Handover {
                epoch: Epoch(8),
                cause: HandoverCause::Stop,
            },
            "060002030802",
        ),
        (Frame::ResyncRequest, "06000204"),
        (
            Frame::SnapshotBegin { position, items: 2 },
            "0600020507fbfb0002",
        ),
        (
            Frame::SnapshotChunk(vec![
                Item::Said {
                    backend: BackendId(2),
                    statement: Statement {
                        service: ServiceId(3),
                        name: "b".into(),
                        at: Stamp(9),
                        said: Said::State {
                            state: AdminState::Drain,
                            cut_ms: None,
                        },
                    },
                },
                Item::FlowBytes {
                    flow: FlowId(9),
                    up: 10,
                    down: 11,
                },
                Item::FlowClose { flow: FlowId(9) },
                Item::NatOpen {
                    key: nat_key(),
                    record: NatRecord {
                        service: ServiceId(3),
                        backend: BackendId(4),
                        source: ([192, 0, 2, 100], 20_000).into(),
                        target: ([198, 51, 100, 21], 8_080).into(),
                        client_mark: 5,
                        backend_mark: None,
                        since_unix_ms: 6,
                    },
                },
                Item::NatMarks {
                    key: nat_key(),
                    client: 7,
                    backend: 8,
                },
                Item::NatClose { key: nat_key() },
                Item::Stick {
                    key: stick_key(),
                    record: StickRecord {
                        backend: BackendId(2),
                        used_ms: 300,
                    },
                },
                Item::Unstick { key: stick_key() },
            ]),
            "060002060800020301620902010001090a0b02090500c0000207fb409c00c000026450030400c0000264fb204e00c6336415fb901f0500060600c0000207fb409c00c00002645007080700c0000207fb409c00c0000264500801fd887766554433221102fb2c010901fd8877665544332211",
        ),
        (Frame::SnapshotEnd, "06000207"),
        (
            Frame::Said(vec![Item::Said {
                backend: BackendId(2),
                statement: Statement {
                    service: ServiceId(3),
                    name: "c".into(),
                    at: Stamp(300),
                    said: Said::Presence(Presence::Added(Addition {
                        pool: Some("p".into()),
                        address: v4,
                        weight: 5,
                        max_connections: None,
                        backup: true,
                    })),
                },
            }]),
            "0600020a010002030163fb2c01000101017000c0000207fb409c050001",
        ),
        (
            Frame::Marks {
                config: ConfigHash(7),
                marks: vec![Mark {
                    section: "a".into(),
                    key: "b".into(),
                    hash: 8,
                }],
                last: true,
            },
            "0600020b0701016101620801",
        ),
        (
            Frame::Parcel(Parcel::Piece {
                job: 7,
                bytes: vec![1, 2],
                last: true,
            }),
            "0600020c000702010201",
        ),
        (
            Frame::Inherited(vec![Item::NatClose { key: nat_key() }]),
            "06000209010700c0000207fb409c00c000026450",
        ),
        (
            Frame::Update {
                after: position,
                items: vec![
                    Item::FlowOpen {
                        flow: FlowId(9),
                        record: record(v4),
                    },
                    Item::FlowOpen {
                        flow: FlowId(10),
                        record: record(v6),
                    },
                    Item::Health {
                        backend: BackendId(2),
                        record: HealthRecord {
                            up: true,
                            streak: 1,
                            good: 2,
                            bad: 3,
                        },
                    },
                ],
            },
            "0600020807fbfb0003030900c0000207fb409c0102fd00505c18a30100000304030a0120010db8000000000000000000000007fb409c0102fd00505c18a30100000304040201010203",
        ),
    ]
}

#[test]
fn the_bytes_of_a_heartbeat_are_these_until_the_protocol_version_rises() {
    let bytes = encode_heartbeat(&heartbeat());
    assert_eq!(
        hex(&bytes),
        "06000101fb2c0102079600fc00e1f505fd887766554433221101fbcdab02010001fb2c0100fc00ca9a3b0105fc70110100"
    );
    assert_eq!(decode_heartbeat(&bytes), Ok(heartbeat()));
}

fn stick_key() -> StickKey {
    StickKey {
        service: ServiceId(1),
        hash: 0x1122_3344_5566_7788,
    }
}

fn nat_key() -> NatKey {
    NatKey {
        client: ([192, 0, 2, 7], 40_000).into(),
        service: ([192, 0, 2, 100], 80).into(),
    }
}

#[test]
fn the_bytes_of_each_frame_are_these_until_the_protocol_version_rises() {
    assert_eq!(PROTOCOL, 6);
    let (found, expected): (Vec<_>, Vec<_>) = golden()
        .into_iter()
        .map(|(frame, bytes)| (hex(&encode_frame(&frame)), bytes.to_owned()))
        .unzip();
    assert_eq!(found, expected);
    for (frame, _) in golden() {
        assert_eq!(decode_frame(&encode_frame(&frame)), Ok(frame));
    }
}

#[test]
fn the_greatest_heartbeat_is_as_long_as_documented_and_comes_back() {
    let bytes = encode_heartbeat(&greatest_heartbeat());
    assert_eq!(bytes.len(), 107);
    assert_eq!(decode_heartbeat(&bytes), Ok(greatest_heartbeat()));
}

#[test]
fn the_greatest_batch_comes_back_and_one_item_more_is_refused() {
    let item = Item::FlowOpen {
        flow: FlowId(u64::MAX),
        record: FlowRecord {
            client: "[2001:db8::ffff]:65535".parse().unwrap(),
            service: ServiceId(u32::MAX),
            backend: BackendId(u32::MAX),
            since_unix_ms: u64::MAX,
            up: u64::MAX,
            down: u64::MAX,
        },
    };
    let greatest: SocketAddr = "[2001:db8::ffff]:65535".parse().unwrap();
    let nat = Item::NatOpen {
        key: NatKey {
            client: greatest,
            service: greatest,
        },
        record: NatRecord {
            service: ServiceId(u32::MAX),
            backend: BackendId(u32::MAX),
            source: greatest,
            target: greatest,
            client_mark: u32::MAX,
            backend_mark: Some(u32::MAX),
            since_unix_ms: u64::MAX,
        },
    };
    let full = encode_frame(&Frame::SnapshotChunk(vec![nat; MAX_BATCH]));
    assert!(full.len() < 64 * 1024, "{}", full.len());
    let mut items = vec![item; MAX_BATCH];
    let full = Frame::SnapshotChunk(items.clone());
    let bytes = encode_frame(&full);
    assert!(bytes.len() < 64 * 1024, "{}", bytes.len());
    assert_eq!(decode_frame(&bytes), Ok(full));
    items.push(items[0].clone());
    for frame in [
        Frame::SnapshotChunk(items.clone()),
        Frame::Update {
            after: Position::default(),
            items,
        },
    ] {
        assert_eq!(decode_frame(&encode_frame(&frame)), Err(DecodeError::Items));
    }
}

#[test]
fn a_claim_of_a_huge_list_is_refused_before_anything_is_allocated() {
    // Variant 6 (SnapshotChunk), then a length of 2^63 as bincode writes it.
    let mut bytes = vec![6, 0, FRAME, 6, 253];
    bytes.extend_from_slice(&(1_u64 << 63).to_le_bytes());
    assert_eq!(decode_frame(&bytes), Err(DecodeError::Items));
    // Within the batch, but the items are missing.
    assert_eq!(
        decode_frame(&[6, 0, FRAME, 6, 200]),
        Err(DecodeError::Truncated)
    );
}

#[test]
fn each_mistake_has_its_name() {
    let good = encode_frame(&Frame::SnapshotEnd);
    assert_eq!(decode_frame(&[]), Err(DecodeError::Truncated));
    assert_eq!(decode_frame(&good[..3]), Err(DecodeError::Truncated));
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(
        decode_frame(&longer),
        Err(DecodeError::Trailing { bytes: 1 })
    );
    let mut newer = good.clone();
    newer[0] = 7;
    assert_eq!(decode_frame(&newer), Err(DecodeError::Version { found: 7 }));
    assert_eq!(
        decode_heartbeat(&good),
        Err(DecodeError::Kind { found: FRAME })
    );
    let mut unknown = good;
    unknown[3] = 200;
    assert!(matches!(decode_frame(&unknown), Err(DecodeError::Shape(_))));
    assert_eq!(
        decode_heartbeat(&[0; MAX_HEARTBEAT + 1]),
        Err(DecodeError::TooLong {
            bytes: MAX_HEARTBEAT + 1,
            limit: MAX_HEARTBEAT
        })
    );
}

#[test]
fn a_message_cut_anywhere_is_an_error() {
    let beat = encode_heartbeat(&heartbeat());
    for cut in 0..beat.len() {
        assert!(decode_heartbeat(&beat[..cut]).is_err(), "{cut} bytes");
    }
    for (frame, _) in golden() {
        let bytes = encode_frame(&frame);
        for cut in 0..bytes.len() {
            assert!(decode_frame(&bytes[..cut]).is_err(), "{frame:?}, {cut}");
        }
    }
}

#[test]
fn an_interval_that_overflows_is_an_error() {
    let mut bytes = encode_heartbeat(&greatest_heartbeat());
    // Seconds are at their maximum already; raise the nanoseconds beyond a second.
    let nanos = 999_999_999_u32.to_le_bytes();
    let at = bytes.windows(4).position(|four| four == nanos).unwrap();
    bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        decode_heartbeat(&bytes),
        Err(DecodeError::Shape(_))
    ));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let client = any::<(bool, [u8; 16], u16)>().prop_map(|(v6, ip, port)| {
        if v6 {
            SocketAddr::from((ip, port))
        } else {
            SocketAddr::from(([ip[0], ip[1], ip[2], ip[3]], port))
        }
    });
    let open =
        (client, any::<[u64; 4]>(), any::<[u32; 2]>()).prop_map(|(client, n, m)| Item::FlowOpen {
            flow: FlowId(n[0]),
            record: FlowRecord {
                client,
                service: ServiceId(m[0]),
                backend: BackendId(m[1]),
                since_unix_ms: n[1],
                up: n[2],
                down: n[3],
            },
        });
    let bytes = any::<[u64; 3]>().prop_map(|n| Item::FlowBytes {
        flow: FlowId(n[0]),
        up: n[1],
        down: n[2],
    });
    let close = any::<u64>().prop_map(|n| Item::FlowClose { flow: FlowId(n) });
    let health =
        any::<(u32, bool, u8, u64, u64)>().prop_map(|(b, up, streak, good, bad)| Item::Health {
            backend: BackendId(b),
            record: HealthRecord {
                up,
                streak,
                good,
                bad,
            },
        });
    let nat = any::<(u32, u32)>().prop_map(|(client, backend)| Item::NatMarks {
        key: nat_key(),
        client,
        backend,
    });
    prop::collection::vec(prop_oneof![open, bytes, close, health, nat], 0..40)
}

proptest! {
    #[test]
    fn any_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        dressed in any::<Option<bool>>(),
    ) {
        if let (Some(frame), true) = (dressed, bytes.len() > 4) {
            bytes[..3].copy_from_slice(&[2, 0, if frame { FRAME } else { HEARTBEAT }]);
            bytes[3] %= 9;
        }
        // What decodes must be a value that encodes again.
        if let Ok(frame) = decode_frame(&bytes) {
            prop_assert_eq!(decode_frame(&encode_frame(&frame)), Ok(frame));
        }
        if let Ok(heartbeat) = decode_heartbeat(&bytes) {
            prop_assert_eq!(decode_heartbeat(&encode_heartbeat(&heartbeat)), Ok(heartbeat));
        }
    }

    #[test]
    fn updates_come_back_as_they_went(epoch: u64, sequence: u64, items in items()) {
        let frame = Frame::Update {
            after: Position { epoch: Epoch(epoch), sequence },
            items,
        };
        prop_assert_eq!(decode_frame(&encode_frame(&frame)), Ok(frame));
    }

    #[test]
    fn heartbeats_come_back_as_they_went(
        numbers: [u64; 5],
        nanos in 0_u32..1_000_000_000,
        hears: Option<u128>,
        echo: Option<(u64, u64)>,
        flags: [bool; 4],
        small: (u8, u8, u32, u32),
    ) {
        let heartbeat = Heartbeat {
            path: PathId(small.0),
            path_sequence: numbers[0],
            role: Role::Backup,
            epoch: Epoch(numbers[1]),
            priority: Priority(small.1),
            interval: Duration::new(numbers[2], nanos),
            config_hash: ConfigHash(numbers[3]),
            hears: hears.map(Incarnation),
            ownerships: small.2,
            in_sync: flags[0],
            resigns: flags[1],
            relays: flags[3],
            left: small.3,
            answer: flags[2],
            sent_at: numbers[4],
            echo: echo.map(|(sent_at, held)| Echo { sent_at, held }),
        };
        prop_assert_eq!(decode_heartbeat(&encode_heartbeat(&heartbeat)), Ok(heartbeat));
    }
}
