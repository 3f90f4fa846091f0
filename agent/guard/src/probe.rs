//! `shoal-guard probe`: asks one thing of one connected socket and answers with one byte. Lives for one question.
//!
//! Descriptor 0 is the socket, 1 the answer. It has no privileges, opens nothing, and is the only part of guard that reads
//! what a workload's server says. Works on any stream socket, connected or still connecting.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};
use rustix::net::sockopt::socket_error;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// It passed.
pub(crate) const PASSED: u8 = 1;
/// Nobody took the connection.
pub(crate) const REFUSED: u8 = 2;
/// No answer in time.
pub(crate) const TIMED_OUT: u8 = 3;
/// What came is no HTTP.
pub(crate) const NO_HTTP: u8 = 4;
/// An HTTP status other than 2xx and 3xx: this and its first digit.
pub(crate) const STATUS: u8 = 10;

/// The words for an answer.
pub(crate) fn meaning(answer: Option<u8>) -> String {
    match answer {
        Some(REFUSED) => "the connection was refused".to_owned(),
        Some(TIMED_OUT) => "no answer in time".to_owned(),
        Some(NO_HTTP) => "the answer was no HTTP".to_owned(),
        Some(n @ STATUS..=19) => format!("the status was {}xx", n - STATUS),
        _ => "the probe came to nothing".to_owned(),
    }
}

/// Asks, and answers.
pub(crate) fn run(
    socket: &OwnedFd,
    answer: &OwnedFd,
    path: Option<&str>,
    time: Duration,
) -> std::io::Result<()> {
    let verdict = ask(socket, path, Instant::now() + time);
    write(answer, &[verdict])?;
    Ok(())
}

fn ask(socket: &OwnedFd, path: Option<&str>, end: Instant) -> u8 {
    if !wait(socket, PollFlags::OUT, end) {
        return TIMED_OUT;
    }
    if !matches!(socket_error(socket), Ok(Ok(()))) {
        return REFUSED;
    }
    let Some(path) = path else { return PASSED };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: shoal-probe\r\nConnection: close\r\n\r\n"
    );
    let mut rest = request.as_bytes();
    while !rest.is_empty() {
        match write(socket, rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::AGAIN) if wait(socket, PollFlags::OUT, end) => {}
            Err(Errno::AGAIN) => return TIMED_OUT,
            Err(Errno::INTR) => {}
            Err(_) => return REFUSED,
        }
    }
    // The status line's first words are enough; nothing else of the answer is read.
    let (mut head, mut n) = ([0_u8; 12], 0);
    while n < head.len() {
        match read(socket, &mut head[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(Errno::AGAIN) if wait(socket, PollFlags::IN, end) => {}
            Err(Errno::AGAIN) => return TIMED_OUT,
            Err(Errno::INTR) => {}
            Err(_) => return REFUSED,
        }
    }
    judge(&head[..n])
}

/// `HTTP/1.1 200`
fn judge(head: &[u8]) -> u8 {
    let status = head.strip_prefix(b"HTTP/1.0 ").or_else(|| head.strip_prefix(b"HTTP/1.1 "));
    match status {
        Some([b'2' | b'3', b, c]) if b.is_ascii_digit() && c.is_ascii_digit() => PASSED,
        Some([a @ b'1'..=b'9', b, c]) if b.is_ascii_digit() && c.is_ascii_digit() => STATUS + (a - b'0'),
        _ => NO_HTTP,
    }
}

fn wait(socket: &OwnedFd, what: PollFlags, end: Instant) -> bool {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else { return false };
        match poll(&mut [PollFd::new(socket, what)], Some(&left)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    /// Asks a server on loopback that says `answer` to whatever it is asked.
    fn against(answer: &'static [u8], path: Option<&str>) -> u8 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            if !answer.is_empty() {
                let mut request = [0; 5];
                peer.read_exact(&mut request).unwrap();
                assert_eq!(&request, b"GET /");
                peer.write_all(answer).unwrap();
            }
            peer
        });
        let verdict = ask(&stream.into(), path, Instant::now() + Duration::from_millis(300));
        server.join().unwrap();
        verdict
    }

    #[test]
    fn a_status_of_success_or_elsewhere_passes_and_others_do_not() {
        assert_eq!(against(b"HTTP/1.1 200 OK\r\n\r\n", Some("/")), PASSED);
        assert_eq!(against(b"HTTP/1.0 302 Found\r\n\r\n", Some("/health")), PASSED);
        assert_eq!(against(b"HTTP/1.1 404 Not Found\r\n\r\n", Some("/")), STATUS + 4);
        assert_eq!(meaning(Some(STATUS + 5)), "the status was 5xx");
        assert_eq!(against(b"SSH-2.0-OpenSSH\r\n", Some("/")), NO_HTTP);
        assert_eq!(against(b"HTTP/1.1 2\r\n", Some("/")), NO_HTTP);
    }

    #[test]
    fn a_connection_is_enough_for_tcp_and_silence_is_no_answer_for_http() {
        assert_eq!(against(b"", None), PASSED);
        assert_eq!(against(b"", Some("/")), TIMED_OUT);
    }

    #[test]
    fn a_port_that_nobody_listens_on_is_refused() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let socket = crate::supervise::probes::connect(port).unwrap();
        assert_eq!(ask(&socket, None, Instant::now() + Duration::from_secs(5)), REFUSED);
    }
}
