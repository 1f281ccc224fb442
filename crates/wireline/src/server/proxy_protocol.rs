//! The PROXY protocol, versions 1 and 2: what a load balancer says before the client's first byte, to tell
//! where the connection comes from. Written here since a receiver needs little of it: the crate `ppp`, which
//! parses it whole, is thirty times as long.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header of version 1, its CR LF included.
const MAX_TEXT: usize = 107;

/// The longest addresses and extensions of version 2 that are taken. They can be 64 KiB by its form, which
/// nobody needs: the longest extension in use is a certificate's name.
const MAX_BINARY: usize = 4 << 10;

/// Reads the header, and not a byte more. `None`: the connection is the balancer's own, or it does not say
/// where it comes from.
pub(super) async fn read_source<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<SocketAddr>> {
    // No header is shorter.
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE { read_binary(stream).await } else { read_text(stream, &start).await }
}

async fn read_text<S: AsyncRead + Unpin>(stream: &mut S, start: &[u8]) -> io::Result<Option<SocketAddr>> {
    if !start.starts_with(b"PROXY ") {
        return Err(invalid("it does not begin with a header"));
    }
    // Byte by byte, since what lies behind it is not for us; once a connection, that is little.
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == MAX_TEXT {
            return Err(invalid("the header is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    let line = std::str::from_utf8(&line[..line.len() - 2]).map_err(|_| invalid("the header is not text"))?;
    parse_text(line).ok_or_else(|| invalid("the header is malformed"))
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 4711 443`; `PROXY UNKNOWN` and anything behind it says nothing.
fn parse_text(line: &str) -> Option<Option<SocketAddr>> {
    let words: Vec<_> = line.split(' ').collect();
    match words[..] {
        [_, "UNKNOWN", ..] => Some(None),
        [_, family, source, destination, source_port, destination_port] => {
            let [source, destination]: [IpAddr; 2] = [source.parse().ok()?, destination.parse().ok()?];
            let [source_port, _] = [parse_port(source_port)?, parse_port(destination_port)?];
            let is_ipv4 = match family {
                "TCP4" => true,
                "TCP6" => false,
                _ => return None,
            };
            let is_right = source.is_ipv4() == is_ipv4 && destination.is_ipv4() == is_ipv4;
            is_right.then_some(Some(SocketAddr::new(source, source_port)))
        }
        _ => None,
    }
}

/// Digits alone; Rust would take a sign too.
fn parse_port(digits: &str) -> Option<u16> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

async fn read_binary<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<SocketAddr>> {
    let version_and_command = stream.read_u8().await?;
    let family_and_transport = stream.read_u8().await?;
    let len = usize::from(stream.read_u16().await?);
    if len > MAX_BINARY {
        return Err(invalid("the header is too long"));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    match version_and_command {
        // LOCAL: a health check of the balancer's own.
        0x20 => Ok(None),
        0x21 => {
            parse_addresses(family_and_transport, &body).ok_or_else(|| invalid("the addresses are cut short"))
        }
        _ => Err(invalid("the header is malformed")),
    }
}

fn parse_addresses(family_and_transport: u8, body: &[u8]) -> Option<Option<SocketAddr>> {
    let (source, source_port): (IpAddr, _) = match family_and_transport {
        // TCP over IPv4: two addresses, two ports.
        0x11 => (Ipv4Addr::from(*body.first_chunk()?).into(), body.get(8..12)?),
        // TCP over IPv6.
        0x21 => (Ipv6Addr::from(*body.first_chunk()?).into(), body.get(32..36)?),
        // Unix sockets, datagrams, and what is yet to come: of no use here.
        _ => return Some(None),
    };
    Some(Some(SocketAddr::new(source, u16::from_be_bytes(*source_port.first_chunk()?))))
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made of the bytes, and how many are left.
    async fn read(mut bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, usize) {
        let source = read_source(&mut bytes).await;
        (source, bytes.len())
    }

    fn binary(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version_and_command, family], &len, body].concat()
    }

    #[tokio::test]
    async fn the_source_is_read_and_not_a_byte_behind_the_header() {
        let ipv4 = [192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x67, 1, 187];
        let ipv6 =
            [&[0x20, 1, 13, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[9; 16], &[0x12, 0x67, 1, 187]]
                .concat();
        for (header, source) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n".to_vec(), Some("192.0.2.1:4711")),
            (b"PROXY TCP6 2001:db8::1 ::1 4711 443\r\n".to_vec(), Some("[2001:db8::1]:4711")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (binary(0x21, 0x11, &ipv4), Some("192.0.2.1:4711")),
            (binary(0x21, 0x11, &[&ipv4[..], &[4, 0, 1, 42]].concat()), Some("192.0.2.1:4711")),
            (binary(0x21, 0x21, &ipv6), Some("[2001:db8::1]:4711")),
            (binary(0x20, 0, &[]), None),
            (binary(0x20, 0x11, &ipv4), None),
            (binary(0x21, 0x31, &[b'/'; 216]), None),
            (binary(0x21, 0, &[]), None),
        ] {
            let (read, left) = read(&[&header[..], b"GET /"].concat()).await;
            let source = source.map(|source| source.parse().unwrap());
            assert_eq!((read.unwrap(), left), (source, 5), "{}", String::from_utf8_lossy(&header));
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_an_error() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 4711\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 ::1 4711 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 70000\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +4711 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\n".to_vec(),
            b"PROXY TCP4  192.0.2.1 192.0.2.2 4711 443\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 192.0.2.2 4711 443\r\n".to_vec(),
            b"PROXY \xff\xff\xff\xff\xff\xff\xff\r\n".to_vec(),
            long.into_bytes(),
            b"PROXY TCP4 cut".to_vec(),
            binary(0x21, 0x11, &[1; 11]),
            binary(0x21, 0x21, &[1; 35]),
            binary(0x11, 0x11, &[1; 12]),
            binary(0x22, 0x11, &[1; 12]),
            binary(0x21, 0x11, &[1; 5000]),
            SIGNATURE.to_vec(),
        ] {
            assert!(read(&bytes).await.0.is_err(), "{}", String::from_utf8_lossy(&bytes));
        }
    }
}
