//! One connection: what goes in comes out, and every kind of end arrives as what it was.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use super::rig::{
    Rig, abort, accept, assert_reset, backend, echo, listener, patient, ping, read_out,
};
use crate::balance::flow::FlowEnd;

const BULK: usize = 64 << 20;

#[test]
fn an_echo_and_an_end() {
    let mut rig = Rig::new(&[echo()]);
    let mut client = rig.connect();
    ping(&mut client);
    ping(&mut client);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_out(&mut client), (Vec::new(), false));
    assert_eq!(rig.ends(1), [(FlowEnd::Complete, 8, 8)]);
    assert_eq!(rig.proxy.splices(), 0, "small traffic is copied");
}

#[test]
fn a_backend_that_speaks_first_is_heard() {
    let rig = Rig::new(&[backend(|mut stream| stream.write_all(b"220 ready"))]);
    assert_eq!(read_out(&mut rig.connect()), (b"220 ready".to_vec(), false));
}

#[test]
fn a_client_that_has_said_all_gets_a_late_answer() {
    let (listener, address) = listener();
    let mut rig = Rig::new(&[address]);
    let mut client = rig.connect();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut server = accept(&listener);
    assert_eq!(read_out(&mut server), (b"question".to_vec(), false));
    thread::sleep(Duration::from_millis(50));
    server.write_all(b"late answer").unwrap();
    drop(server);
    assert_eq!(read_out(&mut client), (b"late answer".to_vec(), false));
    assert_eq!(rig.ends(1), [(FlowEnd::Complete, 8, 11)]);
}

#[test]
fn a_backend_that_has_said_all_still_listens() {
    let (listener, address) = listener();
    let mut rig = Rig::new(&[address]);
    let mut client = rig.connect();
    let mut server = accept(&listener);
    server.write_all(b"hello").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_out(&mut client), (b"hello".to_vec(), false));
    client.write_all(b"a long story").unwrap();
    drop(client);
    assert_eq!(read_out(&mut server), (b"a long story".to_vec(), false));
    assert_eq!(rig.ends(1), [(FlowEnd::Complete, 12, 5)]);
}

/// Bytes that do not repeat within a pipe's size.
fn pattern(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; 1_000_003];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    let mut bytes = bytes.repeat(BULK / bytes.len() + 1);
    bytes.truncate(BULK);
    bytes
}

/// Reads to the end and compares on the way.
fn compare(mut stream: TcpStream, expected: &[u8]) {
    let mut total = 0;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let got = stream.read(&mut buffer).unwrap();
        if got == 0 {
            break;
        }
        assert!(buffer[..got] == expected[total..total + got], "at {total}");
        total += got;
    }
    assert_eq!(total, expected.len());
}

#[test]
fn bulk_goes_through_pipes_both_ways_at_once_and_arrives_whole() {
    let (listener, address) = listener();
    let mut rig = Rig::new(&[address]);
    let (up, down) = (pattern(1), pattern(2));
    let client = rig.connect();
    let server = accept(&listener);
    let send = |mut stream: &TcpStream, bytes: &[u8]| {
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    };
    thread::scope(|scope| {
        scope.spawn(|| send(&client, &up));
        scope.spawn(|| send(&server, &down));
        scope.spawn(|| compare(client.try_clone().unwrap(), &down));
        scope.spawn(|| compare(server.try_clone().unwrap(), &up));
    });
    let bulk = BULK as u64;
    assert_eq!(rig.ends(1), [(FlowEnd::Complete, bulk, bulk)]);
    // Brought up to date by the worker's beat.
    thread::sleep(Duration::from_millis(400));
    assert!(rig.proxy.splices() > 10, "{}", rig.proxy.splices());
}

#[test]
fn a_receiver_that_stalls_stops_the_sender_and_loses_nothing() {
    let (listener, address) = listener();
    let mut rig = Rig::new(&[address]);
    let mut client = rig.connect();
    let mut server = accept(&listener);
    client
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let block = [7; 1 << 16];
    let mut sent = 0_usize;
    loop {
        match client.write(&block) {
            Ok(n) => sent += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 256 << 20, "there is no back-pressure");
    }
    client.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), sent);
    drop(server);
    assert_eq!(rig.ends(1), [(FlowEnd::Complete, sent as u64, 0)]);
}

#[test]
fn a_slow_reader_gets_every_byte_in_order() {
    let bytes: Vec<u8> = pattern(3)[..8 << 20].to_vec();
    let expected = bytes.clone();
    let rig = Rig::new(&[backend(move |mut stream| stream.write_all(&bytes))]);
    let mut client = rig.connect();
    let mut got = Vec::new();
    let mut buffer = vec![0; 100_000];
    loop {
        match client.read(&mut buffer).unwrap() {
            0 => break,
            n => got.extend_from_slice(&buffer[..n]),
        }
        if got.len() < 1 << 20 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    assert!(got == expected);
}

#[test]
fn a_clients_reset_reaches_the_backend_as_a_reset() {
    let (listener, address) = listener();
    let mut rig = Rig::new(&[address]);
    let mut client = rig.connect();
    let mut server = accept(&listener);
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    abort(client);
    assert_reset(&mut server);
    assert_eq!(rig.ends(1), [(FlowEnd::ClientError, 1, 0)]);
}

#[test]
fn an_answer_cut_by_a_reset_does_not_look_complete() {
    let (listener, address) = listener();
    let mut rig = Rig::new(&[address]);
    let mut client = rig.connect();
    let mut server = accept(&listener);
    server.write_all(b"half an ans").unwrap();
    client.read_exact(&mut [0; 11]).unwrap();
    abort(server);
    assert_reset(&mut client);
    assert_eq!(rig.ends(1), [(FlowEnd::BackendError, 0, 11)]);
}

#[test]
fn a_reset_is_seen_after_the_client_has_said_all() {
    let (listener, address) = listener();
    let mut rig = Rig::new(&[address]);
    let client = rig.connect();
    let mut server = accept(&listener);
    client.shutdown(Shutdown::Write).unwrap();
    // Nothing moves and nothing is read from the client any more.
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    abort(client);
    assert_eq!(rig.ends(1), [(FlowEnd::ClientError, 0, 0)]);
    // The end came before the reset, so a read sees the end; a write sees the reset.
    let error = loop {
        if let Err(error) = server.write_all(b"x") {
            break error;
        }
    };
    assert!(matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    ));
}

#[test]
fn an_early_answer_arrives_although_the_backend_refuses_the_rest() {
    // Answers and closes with the request unread: the kernel resets.
    let rig_backend = backend(|mut stream| {
        stream.read_exact(&mut [0; 16])?;
        stream.write_all(b"413 too large")?;
        stream.shutdown(Shutdown::Write)?;
        thread::sleep(Duration::from_millis(50));
        Ok(())
    });
    let mut rig = Rig::new(&[rig_backend]);
    let mut client = rig.connect();
    // Less than is thrown away for it.
    for _ in 0..20 {
        client.write_all(&[1; 10_000]).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(read_out(&mut client), (b"413 too large".to_vec(), false));
    drop(client);
    let (end, _, down) = rig.ends(1)[0];
    assert_eq!((end, down), (FlowEnd::BackendError, 13));
}

#[test]
fn a_client_that_will_not_stop_is_reset_in_the_end() {
    let rig_backend = backend(|mut stream| {
        stream.read_exact(&mut [0; 16])?;
        stream.write_all(b"no")?;
        Ok(())
    });
    let mut rig = Rig::new(&[rig_backend]);
    let mut client = rig.connect();
    let mut writer = patient(client.try_clone().unwrap());
    let flood = thread::spawn(move || while writer.write_all(&[1; 10_000]).is_ok() {});
    // What came before the reset may or may not be read.
    let mut answer = [0; 2];
    let _ = client.read_exact(&mut answer);
    flood.join().unwrap();
    assert_eq!(rig.ends(1)[0].0, FlowEnd::BackendError);
}

#[test]
fn many_connections_at_once() {
    let mut rig = Rig::new(&[echo()]);
    let mut clients: Vec<_> = (0..200).map(|_| rig.connect()).collect();
    for client in &mut clients {
        ping(client);
    }
    for client in clients.iter_mut().rev() {
        ping(client);
    }
    drop(clients);
    let ends = rig.ends(200);
    assert!(ends.iter().all(|end| *end == (FlowEnd::Complete, 8, 8)));
}

#[test]
fn urgent_data_cuts_reads_but_loses_nothing_of_the_rest() {
    let mut rig = Rig::new(&[echo()]);
    for end in [true, false] {
        let mut client = rig.connect();
        ping(&mut client);
        // The byte sent as urgent is read apart by those who ask for it; nobody does here.
        let socket = socket2::SockRef::from(&client);
        socket.send_out_of_band(b"abc").unwrap();
        socket.send(b"def").unwrap();
        if end {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_out(&mut client), (b"abdef".to_vec(), false));
        } else {
            let mut answer = [0; 5];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"abdef");
        }
    }
    rig.ends(2);
}

#[test]
fn urgent_data_within_bulk_loses_nothing_of_the_rest() {
    let (listener, address) = listener();
    let mut rig = Rig::new(&[address]);
    let client = rig.connect();
    let server = accept(&listener);
    let bulk = &pattern(4)[..8 << 20];
    let expected = [bulk, b"ab", b"def", bulk].concat();
    thread::scope(|scope| {
        scope.spawn(|| compare(server.try_clone().unwrap(), &expected));
        (&client).write_all(bulk).unwrap();
        socket2::SockRef::from(&client)
            .send_out_of_band(b"abc")
            .unwrap();
        (&client).write_all(b"def").unwrap();
        (&client).write_all(bulk).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    });
    drop(server);
    assert_eq!(rig.ends(1), [(FlowEnd::Complete, expected.len() as u64, 0)]);
}
